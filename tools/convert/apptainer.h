/*
 * What Apptainer and Singularity look for in a root file system that is an image.
 *
 *   .singularity.d/actions/{exec,run,shell,start,test}   how a container is entered: environment first, then the
 * program .singularity.d/env/10-docker2singularity.sh          Env of the image's config; but for PATH, what the user
 * has set already stays .singularity.d/env/{01-base,90-environment,95-apps,99-base,99-runtimevars}.sh, libs/,
 * startscript .singularity.d/runscript                             Entrypoint and Cmd; arguments stand for Cmd
 *   singularity .run .exec .test .shell environment      links to these, where the image has nothing of that name
 *   dev proc sys tmp var/tmp home root etc               directories, likewise: a file system that can't be written to
 *                                                        needs its mount points
 *   etc/hosts etc/resolv.conf                            empty files, whatever the image has: the host's are mounted
 * there
 *
 * The same names as in the trees that DUCC writes. WorkingDir and User of the config count for nothing there, too:
 * Apptainer starts programs as the user and in the directory of who starts it.
 *
 * Names from the config that no shell takes for a variable are left out. Parents that are symbolic links are followed
 * inside the image. What has no place in it (etc is a file) is left out and reported as a loss.
 */
#ifndef LM_TOOLS_APPTAINER_H
#define LM_TOOLS_APPTAINER_H

#include "convert/layer_catalog.h"
#include "convert/packing.h"
#include "oci/image.h"

/* time_s: of all of it. -EPROTO: the config is malformed where it speaks of this. */
int lm_apptainer_add(struct lm_layer_tree *tree, const struct lm_image *image, struct lm_packing *packing,
	int64_t time_s, const struct lm_layer_loss *loss, struct lm_err *err) MUST_CHECK;

#endif
