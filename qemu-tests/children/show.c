// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Prints what this process was started with, one "key=value" per line. A key may come more than once (arg, env, fd, ...).
 * Control characters and backslashes in a value are written \xHH. With the argument "--sizes" the arguments and the
 * environment are only counted, so that a test can pass megabytes of them.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "print.h"

extern char **environ;

/* The whole of a small file, without its final newline. */
static void put_file(const char *key, const char *path)
{
	static char data[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return;
	n = read(fd, data, sizeof(data));
	close(fd);
	if (n > 0 && data[n - 1] == '\n')
		n--;
	if (n >= 0)
		put(key, data, (size_t)n);
}

/* The lines of /proc/self/status that say what exec keeps and resets: "status.SigBlk=...". */
static void put_status(void)
{
	static const char *const wanted[] = {
		"Umask:",  "Uid:",    "Gid:",	 "Groups:", "SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:", "SigCgt:",	 "CapInh:",
		"CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "Seccomp:", "NoNewPrivs:", "TracerPid:", "Threads:",
	};
	char line[1024], key[64];
	FILE *f = fopen("/proc/self/status", "re");

	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
			size_t len = strlen(wanted[i]);
			char *value = line + len;

			if (strncmp(line, wanted[i], len))
				continue;
			value += strspn(value, " \t");
			value[strcspn(value, "\n")] = '\0';
			snprintf(key, sizeof(key), "status.%.*s", (int)len - 1, wanted[i]);
			put_str(key, value);
		}
	}
	fclose(f);
}

/* "fd=NUMBER FLAGS TARGET", FLAGS being "cloexec" or "-"; in the order of numbers, as /proc lists them. */
static void put_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		char path[64], target[PATH_MAX], value[PATH_MAX + 64];
		int fd, flags;
		ssize_t n;

		if (entry->d_name[0] == '.')
			continue;
		fd = atoi(entry->d_name);
		if (fd == dirfd(dir))
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target));
		flags = fcntl(fd, F_GETFD);
		snprintf(value, sizeof(value), "%d %s %.*s", fd, flags >= 0 && (flags & FD_CLOEXEC) ? "cloexec" : "-",
			 n > 0 ? (int)n : 0, target);
		put_str("fd", value);
	}
	closedir(dir);
}

/* "limit.N=SOFT HARD" for every resource. */
static void put_limits(void)
{
	struct rlimit limit;

	for (int i = 0; i < RLIM_NLIMITS; i++)
		if (!getrlimit((__rlimit_resource_t)i, &limit))
			printf("limit.%d=%lu %lu\n", i, (unsigned long)limit.rlim_cur, (unsigned long)limit.rlim_max);
}

/* "sched=POLICY FLAGS NICE PRIORITY" and, under SCHED_DEADLINE, "deadline=RUNTIME DEADLINE PERIOD". */
static void put_sched(void)
{
	struct {
		unsigned int size, policy;
		unsigned long flags;
		int nice;
		unsigned int priority;
		unsigned long runtime, deadline, period;
	} attr;

	if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0))
		return;
	printf("sched=%u %lu %d %u\n", attr.policy, attr.flags, attr.nice, attr.priority);
	if (attr.policy == 6)
		printf("deadline=%lu %lu %lu\n", attr.runtime, attr.deadline, attr.period);
}

/* The controlling terminal's device number and foreground process group: 0 and -1 without one. */
static void put_terminal(void)
{
	int tty, tpgid;
	FILE *f = fopen("/proc/self/stat", "re");

	if (!f)
		return;
	if (fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %d %d", &tty, &tpgid) == 2)
		printf("tty=%d\ntpgid=%d\n", tty, tpgid);
	fclose(f);
}

int main(int argc, char **argv)
{
	const char *execfn = (const char *)getauxval(AT_EXECFN);
	struct stat file = { 0 };
	char cwd[PATH_MAX];
	int signal = 0;
	mode_t mask;

	printf("argc=%d\n", argc);
	if (argc > 1 && !strcmp(argv[1], "--sizes")) {
		unsigned long bytes = 0, count = 0;

		for (int i = 0; i < argc; i++)
			bytes += strlen(argv[i]) + 1;
		printf("argbytes=%lu\n", bytes);
		for (bytes = 0; environ[count]; count++)
			bytes += strlen(environ[count]) + 1;
		printf("envc=%lu\nenvbytes=%lu\n", count, bytes);
		return 0;
	}
	for (int i = 0; i < argc; i++)
		put_str("arg", argv[i]);
	for (char **e = environ; *e; e++)
		put_str("env", *e);
	put_fds();
	if (getcwd(cwd, sizeof(cwd)))
		put_str("cwd", cwd);
	put_str("execfn", execfn ? execfn : "(none)");
	if (execfn && !stat(execfn, &file))
		printf("execfn.inode=%lu\n", (unsigned long)file.st_ino);
	printf("secure=%lu\n", getauxval(AT_SECURE));
	printf("phnum=%lu\n", getauxval(AT_PHNUM));
	printf("phent=%lu\n", getauxval(AT_PHENT));
	printf("base=%s\n", getauxval(AT_BASE) ? "yes" : "no");
	put_link("exe", "/proc/self/exe");
	put_link("root", "/proc/self/root");
	put_file("comm", "/proc/self/comm");
	put_file("cmdline", "/proc/self/cmdline");
	put_file("cgroup", "/proc/self/cgroup");
	put_file("personality", "/proc/self/personality");
	put_file("oom_score_adj", "/proc/self/oom_score_adj");
	put_status();
	mask = umask(0);
	umask(mask);
	printf("umask=%04o\n", (unsigned int)mask);
	printf("pid=%d\nppid=%d\npgid=%d\nsid=%d\n", getpid(), getppid(), getpgrp(), getsid(0));
	printf("uid=%u\neuid=%u\ngid=%u\negid=%u\n", getuid(), geteuid(), getgid(), getegid());
	put_limits();
	put_sched();
	put_terminal();
	if (!prctl(PR_GET_PDEATHSIG, &signal))
		printf("pdeathsig=%d\n", signal);
	printf("nice=%d\n", getpriority(PRIO_PROCESS, 0));
	printf("end=\n");
	return 0;
}
