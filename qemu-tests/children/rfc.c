// SPDX-License-Identifier: GPL-2.0
/*
 * A program as it would be written for the header of the first RFC: with its
 * names and fields only. Makes a template by path and one by descriptor, and
 * starts a shell from each with all seven actions. Exits with the line number
 * of what went wrong, or 0.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/openat2.h>
#include <linux/spawn_template.h>

/* The RFC's were others, which its header did not name. */
#ifndef __NR_spawn_template_create
#define __NR_spawn_template_create 473
#define __NR_spawn_template_spawn 474
#endif

#define CHECK(condition)		\
	do {				\
		if (!(condition))	\
			_exit(__LINE__);\
	} while (0)

/* Fails unless everything is as the actions say. */
static const char script[] =
	"read line <&0 && test \"$line\" = input || exit 1;"
	"test \"$(pwd)\" = /tmp || exit 2;"
	"test -e /proc/self/fd/7 && exit 3;"
	"test \"$(readlink /proc/self/fd/8)\" = /tmp/rfc-output || exit 4;"
	"grep -q '^SigBlk:.*200$' /proc/self/status || exit 5;"
	"grep -q '^SigIgn:.*0$' /proc/self/status || exit 6;"
	"echo output >&1";

static int create(int execfd, const char *filename)
{
	struct spawn_template_create_args args = {
		.flags = SPAWN_TEMPLATE_CREATE_CLOEXEC,
		.execfd = execfd,
		.filename = (uintptr_t)filename,
	};

	return syscall(__NR_spawn_template_create, &args, sizeof(args));
}

static void spawn(int template)
{
	static char *const argv[] = { "bash", "-c", (char *)script, NULL };
	static char *const envp[] = { "PATH=/bin:/usr/bin", NULL };
	int input[2], output[2], folder, pidfd = -1, status;
	unsigned long blocked = 1UL << (SIGUSR1 - 1), ignored = 1UL << (SIGHUP - 1);
	struct spawn_template_sigset mask = {
		.sigset = (uintptr_t)&blocked,
		.sigsetsize = sizeof(blocked),
	};
	struct spawn_template_sigset defaults = {
		.sigset = (uintptr_t)&ignored,
		.sigsetsize = sizeof(ignored),
	};
	struct spawn_template_open file = {
		.path = (uintptr_t)"rfc-output",
		.how = { .flags = O_WRONLY | O_CREAT | O_TRUNC, .mode = 0600 },
	};
	char text[16] = "";
	pid_t pid;

	CHECK(!pipe(input) && !pipe(output));
	folder = open("/tmp", O_RDONLY | O_DIRECTORY);
	CHECK(folder >= 0);
	CHECK(signal(SIGHUP, SIG_IGN) != SIG_ERR);

	struct spawn_template_action actions[] = {
		{ .type = SPAWN_TEMPLATE_ACTION_DUP2, .fd = input[0], .newfd = 0 },
		{ .type = SPAWN_TEMPLATE_ACTION_DUP2, .fd = output[1], .newfd = 1 },
		{ .type = SPAWN_TEMPLATE_ACTION_DUP2, .fd = 1, .newfd = 7 },
		{ .type = SPAWN_TEMPLATE_ACTION_FCHDIR, .fd = folder },
		{ .type = SPAWN_TEMPLATE_ACTION_OPEN, .fd = AT_FDCWD, .newfd = 8,
		  .arg = (uintptr_t)&file },
		{ .type = SPAWN_TEMPLATE_ACTION_CLOSE, .fd = 7 },
		{ .type = SPAWN_TEMPLATE_ACTION_CLOSE_RANGE, .fd = 9, .newfd = -1 },
		{ .type = SPAWN_TEMPLATE_ACTION_SIGMASK, .arg = (uintptr_t)&mask },
		{ .type = SPAWN_TEMPLATE_ACTION_SIGDEFAULT, .arg = (uintptr_t)&defaults },
	};
	struct spawn_template_spawn_args args = {
		.flags = SPAWN_TEMPLATE_SPAWN_INHERIT_FDS,
		.pidfd = (uintptr_t)&pidfd,
		.argv = (uintptr_t)argv,
		.envp = (uintptr_t)envp,
		.actions = (uintptr_t)actions,
		.actions_len = sizeof(actions) / sizeof(actions[0]),
	};

	/* After a failure there is nothing to clean up. */
	file.path = (uintptr_t)"missing/rfc-output";
	pid = syscall(__NR_spawn_template_spawn, template, &args, sizeof(args));
	CHECK(pid < 0 && pidfd == -1);

	file.path = (uintptr_t)"rfc-output";
	pid = syscall(__NR_spawn_template_spawn, template, &args, sizeof(args));
	CHECK(pid > 0 && pidfd >= 0);
	CHECK(write(input[1], "input\n", 6) == 6);
	close(output[1]);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status));
	if (WEXITSTATUS(status))
		_exit(WEXITSTATUS(status));
	CHECK(read(output[0], text, sizeof(text) - 1) == 7 && !strcmp(text, "output\n"));
	close(input[0]);
	close(input[1]);
	close(output[0]);
	close(folder);
	close(pidfd);
}

int main(void)
{
	int fd = open("/bin/bash", O_RDONLY | O_CLOEXEC);
	int by_path = create(-1, "/bin/bash"), by_fd = create(fd, NULL);

	CHECK(fd >= 0 && by_path >= 0 && by_fd >= 0);
	spawn(by_path);
	spawn(by_fd);
	return 0;
}
