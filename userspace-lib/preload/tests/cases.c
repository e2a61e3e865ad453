/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Uses all of posix_spawn() and prints what came of it, in lines that do not
 * depend on anything but the semantics: with and without the preload library
 * the output must be the same. Run it in an empty directory.
 *
 *	cases		all cases
 *	cases show ...	a child: prints what it sees
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static char self[4096];
static char work[4096];
static posix_spawnattr_t attr;
static posix_spawn_file_actions_t actions;

/* What the child is: written to descriptor "out", which it does not list. */
static int show(int argc, char **argv)
{
	const int out = 9;
	char path[4096];
	struct sched_param param;
	sigset_t mask;
	DIR *dir;
	int flag[64] = { 0 };

	dprintf(out, "  arguments");
	for (int i = 2; i < argc; i++)
		dprintf(out, " %s", argv[i]);
	dprintf(out, "; V=%s\n", getenv("V") ? getenv("V") : "-");
	if (getcwd(path, sizeof(path)))
		dprintf(out, "  directory %s\n", strncmp(path, work, strlen(work)) ? path : path + strlen(work));
	prctl(PR_GET_NAME, path);
	dprintf(out, "  name %s\n", path);
	dprintf(out, "  session %s, group %s\n", getsid(0) == getpid() ? "own" : "inherited",
		getpgid(0) == getpid() ? "own" : "inherited");
	dprintf(out, "  ids %d %d %d %d, umask %o\n", getuid(), geteuid(), getgid(), getegid(), umask(0));
	sched_getparam(0, &param);
	dprintf(out, "  scheduler %d, priority %d, nice %d\n", sched_getscheduler(0), param.sched_priority,
		getpriority(PRIO_PROCESS, 0));

	sigprocmask(SIG_SETMASK, NULL, &mask);
	dprintf(out, "  blocked");
	for (int sig = 1; sig < 32; sig++)
		if (sigismember(&mask, sig))
			dprintf(out, " %d", sig);
	dprintf(out, "; ignored");
	for (int sig = 1; sig < 32; sig++) {
		struct sigaction sa;

		if (!sigaction(sig, NULL, &sa) && sa.sa_handler == SIG_IGN)
			dprintf(out, " %d", sig);
	}
	dprintf(out, "\n  descriptors");
	dir = opendir("/proc/self/fd");
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] != '.' && fd != dirfd(dir) && fd < 64)
			flag[fd] = 1;
	}
	if (dir)
		closedir(dir);
	for (int fd = 0; fd < 64; fd++) {
		char link[64];
		ssize_t length;

		if (!flag[fd] || fd == out)
			continue;
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		length = readlink(link, path, sizeof(path) - 1);
		path[length < 0 ? 0 : length] = 0;
		dprintf(out, " %d=%s(%o%s)", fd, strrchr(path, '/') ? strrchr(path, '/') + 1 : "pipe",
			fcntl(fd, F_GETFL), fcntl(fd, F_GETFD) ? ",cloexec" : "");
	}
	dprintf(out, "\n");
	return 7;
}

static void fresh(void)
{
	posix_spawnattr_init(&attr);
	posix_spawn_file_actions_init(&actions);
}

static void report(int error, pid_t pid)
{
	int status;

	if (error) {
		printf("  error %s\n", strerrorname_np(error));
	} else if (waitpid(pid, &status, 0) != pid) {
		printf("  no child %s\n", strerrorname_np(errno));
	} else if (WIFEXITED(status)) {
		printf("  exit %d\n", WEXITSTATUS(status));
	} else {
		printf("  signal %d\n", WTERMSIG(status));
	}
	/* Nothing else is left. */
	if (waitpid(-1, &status, WNOHANG) != -1 || errno != ECHILD)
		printf("  a child is left\n");
}

typedef int spawner(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
		    char *const[], char *const[]);

/* Spawns with "attr" and "actions", reports, and makes both new. */
static void run_with(const char *name, spawner *spawn, const char *program)
{
	char *argv[] = { "zero", "show", "one", "two", NULL };
	char *envp[] = { "V=1", NULL };
	pid_t pid = -1;
	int error;

	printf("%s\n", name);
	fflush(stdout);
	error = spawn(&pid, program, &actions, &attr, argv, envp);
	report(error, pid);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	fresh();
}

static void run(const char *name)
{
	run_with(name, posix_spawn, self);
}

static void flags(short set)
{
	posix_spawnattr_setflags(&attr, set);
}

static void file(const char *name, const char *text, mode_t mode)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	if (write(fd, text, strlen(text)) < 0)
		abort();
	fchmod(fd, mode);
	close(fd);
}

static void copy(const char *name)
{
	char buffer[65536];
	int from = open(self, O_RDONLY | O_CLOEXEC), to;
	ssize_t got;

	unlink(name);
	to = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
	while ((got = read(from, buffer, sizeof(buffer))) > 0)
		if (write(to, buffer, got) != got)
			abort();
	close(from);
	close(to);
}

static void there(const char *name)
{
	printf("  %s %s\n", name, access(name, F_OK) ? "is not there" : "is there");
}

static void descriptors(void)
{
	int low = open("low", O_RDONLY | O_CREAT | O_CLOEXEC, 0600);

	run("plain");
	posix_spawn_file_actions_adddup2(&actions, low, 20);
	posix_spawn_file_actions_adddup2(&actions, 20, 21);
	run("dup2");
	posix_spawn_file_actions_adddup2(&actions, low, low);
	run("dup2 to itself");
	posix_spawn_file_actions_adddup2(&actions, 40, 41);
	run("dup2 of what is not open");
	posix_spawn_file_actions_addclose(&actions, 0);
	posix_spawn_file_actions_addclose(&actions, 40);
	run("close");
	posix_spawn_file_actions_adddup2(&actions, low, 20);
	posix_spawn_file_actions_addclose(&actions, low);
	posix_spawn_file_actions_adddup2(&actions, low, 21);
	run("dup2 of what was closed");
	posix_spawn_file_actions_addopen(&actions, 30, "low", O_RDWR | O_APPEND, 0);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	run("open");
	umask(027);
	posix_spawn_file_actions_addopen(&actions, 30, "created", O_WRONLY | O_CREAT, 0666);
	run("open and create");
	umask(022);
	struct stat st;
	stat("created", &st);
	printf("  mode %o\n", st.st_mode);
	posix_spawn_file_actions_addopen(&actions, 30, "created", O_WRONLY | O_CREAT | O_EXCL, 0666);
	run("open exclusively what exists");
	posix_spawn_file_actions_addopen(&actions, 30, "exclusive", O_WRONLY | O_CREAT | O_EXCL, 0666);
	run("open exclusively");
	posix_spawn_file_actions_addopen(&actions, 30, "missing/file", O_RDONLY, 0);
	run("open what is missing");
	posix_spawn_file_actions_addopen(&actions, 30, "low", O_RDONLY | 0x40000000, 07777777);
	run("open with flags and mode that open() ignores");
	posix_spawn_file_actions_addopen(&actions, 30, "low", O_PATH | O_APPEND, 0);
	run("open a path");
	posix_spawn_file_actions_adddup2(&actions, low, 30);
	posix_spawn_file_actions_addopen(&actions, 30, "/proc/self/fd/30", O_RDONLY, 0);
	run("the number is closed before the file is opened");
	posix_spawn_file_actions_adddup2(&actions, low, 30);
	posix_spawn_file_actions_adddup2(&actions, 9, 3);
	posix_spawn_file_actions_adddup2(&actions, 3, 9);
	posix_spawn_file_actions_addclosefrom_np(&actions, 10);
	run("closefrom");
	for (int i = 0; i < 300; i++)
		posix_spawn_file_actions_adddup2(&actions, low, 20 + i % 10);
	run("more actions than the kernel takes");
	for (int i = 0; i < 60; i++)
		posix_spawn_file_actions_addopen(&actions, 20 + i % 10, "low", O_RDONLY, 0);
	run("many actions");
	posix_spawn_file_actions_addchdir_np(&actions, "below");
	posix_spawn_file_actions_addopen(&actions, 30, "inside", O_WRONLY | O_CREAT, 0600);
	run("chdir, then open");
	there("below/inside");
	posix_spawn_file_actions_addchdir_np(&actions, "missing");
	run("chdir to what is missing");
	posix_spawn_file_actions_addchdir_np(&actions, "low");
	run("chdir to a file");
	int below = open("below", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	posix_spawn_file_actions_addfchdir_np(&actions, below);
	run("fchdir");
	posix_spawn_file_actions_addfchdir_np(&actions, low);
	run("fchdir to a file");
	close(below);
	posix_spawn_file_actions_addtcsetpgrp_np(&actions, low);
	run("tcsetpgrp of a file");
	/* POSIX wants this of addfchdir too, but not every glibc does it. */
	printf("bad numbers %d %d %d %d %d %d\n", posix_spawn_file_actions_addclose(&actions, -1),
	       posix_spawn_file_actions_adddup2(&actions, 0, 1 << 30), posix_spawn_file_actions_adddup2(&actions, -1, 0),
	       posix_spawn_file_actions_addopen(&actions, -1, "low", 0, 0),
	       posix_spawn_file_actions_addclosefrom_np(&actions, -1),
	       posix_spawn_file_actions_addtcsetpgrp_np(&actions, -1));
	run("none of which is an action");
	close(low);
}

static void signals(void)
{
	sigset_t set, old;

	signal(SIGUSR1, SIG_IGN);
	signal(SIGUSR2, SIG_IGN);
	signal(SIGHUP, (void (*)(int))report);
	run("signals are ignored as before, and caught no more");
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	posix_spawnattr_setsigdefault(&attr, &set);
	run("default signals without their flag");
	posix_spawnattr_setsigdefault(&attr, &set);
	flags(POSIX_SPAWN_SETSIGDEF);
	run("default signals");
	sigfillset(&set);
	posix_spawnattr_setsigdefault(&attr, &set);
	flags(POSIX_SPAWN_SETSIGDEF);
	run("all default signals");
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, &old);
	run("the mask is inherited");
	sigaddset(&set, SIGINT);
	sigdelset(&set, SIGTERM);
	posix_spawnattr_setsigmask(&attr, &set);
	flags(POSIX_SPAWN_SETSIGMASK);
	run("mask");
	sigfillset(&set);
	posix_spawnattr_setsigmask(&attr, &set);
	flags(POSIX_SPAWN_SETSIGMASK);
	run("everything blocked");
	sigprocmask(SIG_SETMASK, &old, NULL);
	signal(SIGUSR1, SIG_DFL);
	signal(SIGUSR2, SIG_DFL);
	signal(SIGHUP, SIG_DFL);
}

static void scheduling(void)
{
	struct sched_param param = { .sched_priority = 3 };

	posix_spawnattr_setschedparam(&attr, &param);
	posix_spawnattr_setschedpolicy(&attr, SCHED_FIFO);
	run("scheduling without its flags");
	posix_spawnattr_setschedparam(&attr, &param);
	posix_spawnattr_setschedpolicy(&attr, SCHED_FIFO);
	flags(POSIX_SPAWN_SETSCHEDULER);
	run("scheduler");
	posix_spawnattr_setschedparam(&attr, &param);
	posix_spawnattr_setschedpolicy(&attr, SCHED_RR);
	flags(POSIX_SPAWN_SETSCHEDULER | POSIX_SPAWN_SETSCHEDPARAM);
	run("both");
	posix_spawnattr_setschedparam(&attr, &param);
	flags(POSIX_SPAWN_SETSCHEDPARAM);
	run("a priority that the policy does not have");
	param.sched_priority = -1;
	posix_spawnattr_setschedparam(&attr, &param);
	posix_spawnattr_setschedpolicy(&attr, SCHED_FIFO);
	flags(POSIX_SPAWN_SETSCHEDULER);
	run("a priority below zero");
	param.sched_priority = 0;
	flags(POSIX_SPAWN_SETSCHEDPARAM);
	run("the priority that it has");
	if (nice(5) == 5) {
		flags(POSIX_SPAWN_SETSCHEDPARAM);
		run("the nice value stays with a priority");
		flags(POSIX_SPAWN_SETSCHEDULER);
		run("the nice value stays with a scheduler");
		setpriority(PRIO_PROCESS, 0, 0);
	}
}

static void identity(void)
{
	flags(POSIX_SPAWN_SETPGROUP);
	run("own group");
	posix_spawnattr_setpgroup(&attr, getpgid(0));
	flags(POSIX_SPAWN_SETPGROUP);
	run("my group");
	posix_spawnattr_setpgroup(&attr, -1);
	flags(POSIX_SPAWN_SETPGROUP);
	run("a group below zero");
	posix_spawnattr_setpgroup(&attr, 1);
	flags(POSIX_SPAWN_SETPGROUP);
	run("another session's group");
	flags(POSIX_SPAWN_SETSID);
	run("session");
	flags(POSIX_SPAWN_SETSID | POSIX_SPAWN_SETPGROUP);
	run("session, then group");
	flags(POSIX_SPAWN_SETPGROUP);
	posix_spawn_file_actions_addopen(&actions, 30, "missing/file", O_RDONLY, 0);
	run("attribute and failing action");
	flags(POSIX_SPAWN_USEVFORK);
	run("vfork");
	if (!geteuid()) {
		if (setegid(65534) || seteuid(65534))
			abort();
		run("effective ids are inherited");
		flags(POSIX_SPAWN_RESETIDS);
		run("ids are reset");
		if (seteuid(0) || setegid(0))
			abort();
		run("back again");
	}
}

static void terminal(void)
{
	int control, tty;
	pid_t pid;

	printf("terminal\n");
	if (openpty(&control, &tty, NULL, NULL, NULL))
		return;
	fflush(stdout);
	pid = fork();
	if (!pid) {
		setsid();
		ioctl(tty, TIOCSCTTY, 0);
		fcntl(control, F_SETFD, FD_CLOEXEC);
		fcntl(tty, F_SETFD, FD_CLOEXEC);
		flags(POSIX_SPAWN_SETPGROUP);
		posix_spawn_file_actions_addtcsetpgrp_np(&actions, tty);
		run("tcsetpgrp");
		printf("  foreground is %s\n", tcgetpgrp(tty) == getpid() ? "mine" : "another's");
		posix_spawn_file_actions_addtcsetpgrp_np(&actions, tty);
		run("tcsetpgrp from the background");
		printf("  foreground is %s\n", tcgetpgrp(tty) == getpid() ? "mine" : "another's");
		fflush(stdout);
		_exit(0);
	}
	report(0, pid);
	close(control);
	close(tty);
}

static void programs(void)
{
	char path[2 * sizeof(work) + 32];

	run_with("missing program", posix_spawn, "/missing");
	run_with("empty name", posix_spawn, "");
	run_with("empty name, searched", posix_spawnp, "");
	run_with("a directory", posix_spawn, "/tmp");
	run_with("a name below a file", posix_spawn, "/etc/passwd/x");
	file("data", "no program", 0755);
	run_with("no program", posix_spawn, "./data");
	run_with("no program, searched", posix_spawnp, "./data");
	file("script", "#!/bin/sh\necho script \"$@\" >&9; exit 4\n", 0755);
	run_with("script", posix_spawn, "./script");
	file("forbidden", "#!/bin/sh\n", 0600);
	run_with("no permission", posix_spawn, "./forbidden");
	posix_spawn_file_actions_addopen(&actions, 30, "made", O_WRONLY | O_CREAT, 0600);
	run_with("actions are done even if there is no program", posix_spawn, "/missing");
	there("made");
	posix_spawn_file_actions_addopen(&actions, 30, "missing/file", O_RDONLY, 0);
	run_with("and fail first", posix_spawn, "/missing");

	copy("copy");
	run_with("relative", posix_spawn, "./copy");
	run_with("relative without a slash", posix_spawn, "copy");
	posix_spawn_file_actions_addchdir_np(&actions, "below");
	run_with("relative to the new directory", posix_spawn, "../copy");
	posix_spawn_file_actions_addchdir_np(&actions, "below");
	run_with("not relative to the old one", posix_spawn, "./copy");

	copy("below/tool");
	file("first/tool", "#!/bin/sh\n", 0600);
	file("first/only", "#!/bin/sh\n", 0600);
	setenv("PATH", "/missing:/etc/passwd:first:below:/usr/bin", 1);
	run_with("searched", posix_spawnp, "tool");
	run_with("searched, not allowed", posix_spawnp, "only");
	run_with("searched, missing", posix_spawnp, "no-such-tool");
	snprintf(path, sizeof(path), "%s/first:%s/below", work, work);
	setenv("PATH", path, 1);
	run_with("searched from the root", posix_spawnp, "tool");
	setenv("PATH", "", 1);
	run_with("an empty path is here", posix_spawnp, "copy");
	unsetenv("PATH");
	run_with("no path", posix_spawnp, "copy");
	setenv("PATH", "/bin:/usr/bin", 1);
	memset(path, 'x', 5000);
	path[5000] = 0;
	run_with("a long name", posix_spawnp, path);
	path[0] = '/';
	run_with("a long path", posix_spawn, path);

	run_with("kept", posix_spawn, "./copy");
	copy("copy");
	run_with("replaced", posix_spawn, "./copy");
	chmod("copy", 0644);
	run_with("not executable any more", posix_spawn, "./copy");
	chmod("copy", 0755);
	run_with("executable again", posix_spawn, "./copy");
	copy("copy");
	posix_spawn_file_actions_addopen(&actions, 30, "once", O_WRONLY | O_CREAT | O_EXCL, 0600);
	run_with("replaced, with an exclusive open", posix_spawn, "./copy");
	int writer = open("copy", O_WRONLY | O_CLOEXEC);
	run_with("open for writing", posix_spawn, "./copy");
	close(writer);
	unlink("copy");
	run_with("removed", posix_spawn, "./copy");

	/* More programs than any cache keeps. */
	for (int i = 0; i < 66; i++) {
		snprintf(path, sizeof(path), "below/tool%d", i);
		if (link("below/tool", path))
			abort();
		run_with(path, posix_spawn, path);
	}
	int open_files = 0;
	for (int fd = 0; fd < 1024; fd++)
		open_files += fcntl(fd, F_GETFD) >= 0;
	printf("descriptors %s\n", open_files < 100 ? "are bounded" : "leak");
}

static void records(void)
{
	posix_spawnattr_t zero;
	posix_spawn_file_actions_t none;
	struct sched_param param = { .sched_priority = 4 };
	char *argv[] = { "zero", "show", NULL };
	sigset_t set;
	short flag;
	int policy;
	pid_t group, pid = -1;
	int error;

	printf("setflags %d %d\n", posix_spawnattr_setflags(&attr, 0x4000), posix_spawnattr_setflags(&attr, 0xff));
	printf("setschedpolicy %d %d\n", posix_spawnattr_setschedpolicy(&attr, 77),
	       posix_spawnattr_setschedpolicy(&attr, SCHED_RR));
	sigemptyset(&set);
	sigaddset(&set, SIGRTMAX);
	posix_spawnattr_setsigmask(&attr, &set);
	posix_spawnattr_setpgroup(&attr, 12);
	posix_spawnattr_setschedparam(&attr, &param);
	param.sched_priority = 0;
	posix_spawnattr_getflags(&attr, &flag);
	posix_spawnattr_getpgroup(&attr, &group);
	posix_spawnattr_getschedparam(&attr, &param);
	posix_spawnattr_getschedpolicy(&attr, &policy);
	posix_spawnattr_getsigmask(&attr, &set);
	printf("stored %x %d %d %d %d", flag, group, param.sched_priority, policy, sigismember(&set, SIGRTMAX));
	posix_spawnattr_getsigdefault(&attr, &set);
	printf(" %d\n", sigismember(&set, SIGRTMAX));
	fresh();

	memset(&zero, 0, sizeof(zero));
	memset(&none, 0, sizeof(none));
	posix_spawnattr_setflags(&zero, POSIX_SPAWN_SETPGROUP);
	posix_spawn_file_actions_addclose(&none, 0);
	printf("records of zeroes\n");
	fflush(stdout);
	error = posix_spawn(&pid, self, &none, &zero, argv, environ);
	report(error, pid);
	posix_spawn_file_actions_addclose(&actions, 0);
	printf("one record of zeroes\n");
	fflush(stdout);
	error = posix_spawn(&pid, self, &actions, &zero, argv, environ);
	report(error, pid);
	posix_spawn_file_actions_destroy(&none);
	printf("no records\n");
	fflush(stdout);
	error = posix_spawn(&pid, self, NULL, NULL, argv, environ);
	report(error, pid);
	printf("no room for the process id\n");
	fflush(stdout);
	report(posix_spawn(NULL, self, NULL, NULL, argv, environ), -1);

	char *large = malloc(40 << 20);
	memset(large, 'x', 40 << 20);
	large[(40 << 20) - 1] = 0;
	char *too_large[] = { "zero", large, NULL };
	printf("arguments that are too large %s\n",
	       strerrorname_np(posix_spawn(&pid, self, NULL, NULL, too_large, environ)));
	free(large);
	fresh();
}

static void *thread(void *out)
{
	char *argv[] = { "sh", "-c", "exit 3", NULL };

	for (int i = 0; i < 8; i++) {
		pid_t pid;
		int status = -1;

		if (posix_spawnp(&pid, "sh", NULL, NULL, argv, environ) || waitpid(pid, &status, 0) != pid ||
		    WEXITSTATUS(status) != 3)
			++*(int *)out;
	}
	return NULL;
}

static void process(void)
{
	pthread_t threads[4];
	int failures[4] = { 0 };
	pid_t pid;

	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, thread, &failures[i]);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	printf("threads: %d failed\n", failures[0] + failures[1] + failures[2] + failures[3]);

	fflush(stdout);
	pid = fork();
	if (!pid) {
		run("in a forked process");
		fflush(stdout);
		_exit(0);
	}
	report(0, pid);

	syscall(SYS_close_range, 10, ~0U, 0);
	run("after all descriptors were closed");
	for (int i = 0; i < 60; i++)
		dup2(0, 90 + i);
	run_with("after their numbers were used", posix_spawnp, "true");
	syscall(SYS_close_range, 10, ~0U, 0);

	struct rlimit old, limit;
	getrlimit(RLIMIT_NOFILE, &old);
	limit = old;
	limit.rlim_cur = 10;
	setrlimit(RLIMIT_NOFILE, &limit);
	for (int i = 0; i < 10; i++)
		if (fcntl(i, F_GETFD) < 0)
			dup2(0, i);
	run("no descriptor is free");
	setrlimit(RLIMIT_NOFILE, &old);
	syscall(SYS_close_range, 3, 8, 0);
	run("free again");
}

static void early(void)
{
	char *argv[] = { "sh", "-c", "exit 3", NULL };
	pid_t pid = -1;
	int error = posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ);

	report(error, pid);
}

__attribute__((constructor)) static void before_main(int argc, char **argv)
{
	(void)argv;
	if (argc == 1) {
		printf("before main\n");
		fflush(stdout);
		early();
	}
}

static void after_main(void)
{
	printf("after main\n");
	fflush(stdout);
	early();
}

int main(int argc, char **argv)
{
	ssize_t length;

	if (!getcwd(work, sizeof(work)))
		return 2;
	if (argc > 1)
		return show(argc, argv);

	length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (length < 0)
		return 2;
	atexit(after_main);
	mkdir("below", 0755);
	mkdir("first", 0755);
	/* Where children write to, with the same number in each of them. */
	dup2(1, 9);
	dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), 0);
	syscall(SYS_close_range, 3, 8, 0);
	syscall(SYS_close_range, 10, ~0U, 0);
	fresh();

	descriptors();
	signals();
	scheduling();
	identity();
	terminal();
	programs();
	records();
	process();
	return 0;
}
