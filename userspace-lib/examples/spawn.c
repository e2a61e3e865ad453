/*
 * Starts /bin/echo from a template and prints how it ended.
 *
 * The system call numbers come from the kernel: on one without templates they
 * may be other calls.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/magic.h>
#include <linux/spawn_template.h>

static long nr_create, nr_spawn;

/* Reads the numbers; 0 if this kernel has no spawn templates. */
static int read_numbers(void)
{
	FILE *file = fopen("/proc/spawn_template", "re");
	struct statfs fs;
	char line[80];

	if (!file)
		return 0;
	if (!fstatfs(fileno(file), &fs) && fs.f_type == PROC_SUPER_MAGIC && fgets(line, sizeof(line), file) &&
	    !strcmp(line, "spawn_template 1\n"))
		while (fgets(line, sizeof(line), file)) {
			sscanf(line, "create %ld", &nr_create);
			sscanf(line, "spawn %ld", &nr_spawn);
		}
	fclose(file);
	return nr_create > 0 && nr_spawn > 0;
}

static int fail(const char *what)
{
	if (errno == ENOSYS)
		fprintf(stderr, "spawn: this kernel has no spawn templates\n");
	else
		fprintf(stderr, "spawn: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(void)
{
	static const char path[] = "/bin/echo";
	const char *argv[] = { path, "hello from a template", NULL };
	const char *envp[] = { "LC_ALL=C", NULL };
	struct spawn_template_create_args create = {
		.flags = SPAWN_TEMPLATE_CREATE_CLOEXEC,
		.execfd = -1,
		.filename = (uintptr_t)path,
	};
	int pidfd = -1;
	/* Standard error of the child goes where its standard output goes. */
	struct spawn_template_action actions[] = {
		{ .type = SPAWN_TEMPLATE_ACTION_DUP2, .fd = STDOUT_FILENO, .newfd = STDERR_FILENO },
	};
	struct spawn_template_spawn_args spawn = {
		.pidfd = (uintptr_t)&pidfd,
		.argv = (uintptr_t)argv,
		.envp = (uintptr_t)envp,
		.actions = (uintptr_t)actions,
		.actions_len = sizeof(actions) / sizeof(actions[0]),
	};
	int template, status;
	pid_t pid;

	if (!read_numbers()) {
		errno = ENOSYS;
		return fail("/proc/spawn_template");
	}
	template = (int)syscall(nr_create, &create, sizeof(create));
	if (template < 0)
		return fail("spawn_template_create");

	pid = (pid_t)syscall(nr_spawn, template, &spawn, sizeof(spawn));
	if (pid < 0)
		return fail("spawn_template_spawn");

	if (waitpid(pid, &status, 0) != pid)
		return fail("waitpid");
	close(pidfd);
	close(template);

	if (WIFEXITED(status))
		printf("process %d exited with %d\n", (int)pid, WEXITSTATUS(status));
	else
		printf("process %d was ended by signal %d\n", (int)pid, WTERMSIG(status));
	return 0;
}
