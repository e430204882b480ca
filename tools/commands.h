/*
 * The subcommands of `lamella`, one file each. argv[0] is "lamella SUBCOMMAND", as messages begin; options are parsed
 * with getopt_long() (which the caller has reset). Each returns the exit code: 0, 1 failed (said on standard error),
 * 2 wrong usage. --help is everybody's: usage on standard output, 0.
 */
#ifndef LM_TOOLS_COMMANDS_H
#define LM_TOOLS_COMMANDS_H

int lm_cmd_cache(int argc, char **argv);
int lm_cmd_convert(int argc, char **argv);
int lm_cmd_doctor(int argc, char **argv);
int lm_cmd_images(int argc, char **argv);
int lm_cmd_inspect(int argc, char **argv);
int lm_cmd_mount(int argc, char **argv);
int lm_cmd_pull(int argc, char **argv);
int lm_cmd_registry(int argc, char **argv);
int lm_cmd_repo(int argc, char **argv);
int lm_cmd_rm(int argc, char **argv);
int lm_cmd_serve(int argc, char **argv);
int lm_cmd_status(int argc, char **argv);
int lm_cmd_sync(int argc, char **argv);
int lm_cmd_top(int argc, char **argv);
int lm_cmd_update(int argc, char **argv);
int lm_cmd_verify(int argc, char **argv);

#endif
