/* The parts of `lamella repo`. argv[0] is "lamella repo PART". */
#ifndef LM_TOOLS_REPO_H
#define LM_TOOLS_REPO_H

int lm_cmd_repo_init(int argc, char **argv);
int lm_cmd_repo_info(int argc, char **argv);
int lm_cmd_repo_check(int argc, char **argv);
int lm_cmd_repo_sign(int argc, char **argv);
int lm_cmd_repo_tag(int argc, char **argv);
int lm_cmd_repo_gc(int argc, char **argv);

#endif
