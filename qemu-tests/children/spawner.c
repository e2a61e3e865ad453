// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * spawner HOW: starts exit-code 3, which lies beside this program, waits for it and exits with its status. HOW is posix_spawn,
 * fork, template or template-nowait. Debuggers are shown that these look alike. Prints nothing unless something fails, so that
 * a debugger's transcript holds nothing but the debugger's own words.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/spawn_template.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CREATE 473
#define SPAWN 474

static char program[] = "/payload/children/exit-code";
static char *arguments[] = { "exit-code", "3", NULL };
static char *environment[] = { NULL };

static pid_t by_template(uint64_t flags)
{
	struct spawn_template_create_args create = { .execfd = -1, .filename = (uintptr_t)program };
	struct spawn_template_spawn_args spawn = {
		.flags = flags | SPAWN_TEMPLATE_SPAWN_NO_PIDFD,
		.argv = (uintptr_t)arguments,
		.envp = (uintptr_t)environment,
	};
	long fd = syscall(CREATE, &create, sizeof(create));

	return fd < 0 ? -1 : (pid_t)syscall(SPAWN, (int)fd, &spawn, sizeof(spawn));
}

static pid_t start(const char *how)
{
	pid_t pid = -1;

	if (!strcmp(how, "template"))
		return by_template(0);
	if (!strcmp(how, "template-nowait"))
		return by_template(SPAWN_TEMPLATE_SPAWN_NOWAIT);
	if (!strcmp(how, "fork")) {
		pid = fork();
		if (pid == 0) {
			execve(program, arguments, environment);
			_exit(127);
		}
		return pid;
	}
	errno = posix_spawn(&pid, program, NULL, NULL, arguments, environment);
	return errno ? -1 : pid;
}

int main(int argc, char **argv)
{
	pid_t pid = argc == 2 ? start(argv[1]) : -1;
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		fprintf(stderr, "spawner: %s\n", strerror(errno));
		return 99;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}
