/*
 * POSIX ACLs as the kernel keeps them in system.posix_acl_access and system.posix_acl_default: a version (2), then
 * entries of tag, permissions and id, little-endian (include/uapi/linux/posix_acl_xattr.h). What the kernel does with
 * them when a layer is unpacked: fs/posix_acl.c.
 */
#ifndef LM_TOOLS_ACL_H
#define LM_TOOLS_ACL_H

#include "base/macros.h"

#include <stdbool.h>

/* 1: the kernel keeps it; 0: it is passed over (another version, or empty); -EPROTO: setting it fails. */
int lm_acl_judge(const void *value, size_t len) MUST_CHECK;

/* For an ACL that is kept: it says no more than a mode does, and is not stored for access. */
bool lm_acl_minimal(const void *value, size_t len);

/* What chmod(2) makes of a file's ACL: owner, mask (else group) and others have the mode's permissions. */
void lm_acl_chmod(void *value, size_t len, unsigned mode);

#endif
