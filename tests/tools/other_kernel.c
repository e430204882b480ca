/* other_kernel.so: preloaded (LD_PRELOAD), has uname(2) say the release LM_RELEASE. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

int uname(struct utsname *ret)
{
	const char *release = getenv("LM_RELEASE");
	long r = syscall(SYS_uname, ret);
	if (r == 0 && release)
		(void)snprintf(ret->release, sizeof(ret->release), "%s", release);
	return (int)r;
}
