// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Prints all that a process can learn about itself, one "key=value" per line, so that two ways of starting the same program
 * can be compared. Keys that start with "own." differ between any two processes (ids, addresses, counters); the rest must
 * not. A key may come more than once. Control characters and backslashes in a value are written \xHH.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <unistd.h>

#include "print.h"

#ifndef PR_GET_MDWE
#define PR_GET_MDWE 66
#endif
#ifndef PR_GET_MEMORY_MERGE
#define PR_GET_MEMORY_MERGE 68
#endif
#define MEMBARRIER_GET_REGISTRATIONS (1 << 9)
#define KEYCTL_GET_KEYRING_ID 0

/* A file of /proc/self, as far as one read brings it; or the error, which must be the same as well. */
static void put_file(const char *name)
{
	static char data[65536];
	char path[64];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		n = read(fd, data, sizeof(data));
	if (n >= 0)
		put(name, data, (size_t)n);
	else
		put_str(name, strerrorname_np(errno));
	if (fd >= 0)
		close(fd);
}

/* What a system call answers. */
static void put_call(const char *key, long result)
{
	if (result < 0)
		put_str(key, strerrorname_np(errno));
	else
		printf("%s=%ld\n", key, result);
}

/* It lies behind the environment; /proc/self/auxv cannot be read by who is not dumpable. */
static void put_auxv(char **env)
{
	unsigned long *entry;

	while (*env)
		env++;
	for (entry = (unsigned long *)(env + 1); entry[0] != AT_NULL; entry += 2) {
		char key[32];

		snprintf(key, sizeof(key), "auxv.%lu", entry[0]);
		switch (entry[0]) {
		case AT_PHDR:
		case AT_BASE:
		case AT_ENTRY:
		case AT_SYSINFO_EHDR:
		case AT_RANDOM:
			put_str(key, entry[1] ? "address" : "0");
			break;
		case AT_EXECFN:
		case AT_PLATFORM:
			put_str(key, (const char *)entry[1]);
			break;
		default:
			printf("%s=%#lx\n", key, entry[1]);
		}
	}
}

/* All lines but those that count or that no two processes share. */
static void put_status(void)
{
	static const char *const own[] = {
		"Tgid",	  "Ngid",    "Pid",    "NStgid", "NSpid", "VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem",
		"VmPTE",  "VmSwap",  "SigQ",   "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches", "VmPeak",
	};
	char line[4096], key[128];
	FILE *f = fopen("/proc/self/status", "re");

	if (!f) {
		put_str("status", strerrorname_np(errno));
		return;
	}
	while (fgets(line, sizeof(line), f)) {
		char *value = strchr(line, ':');
		const char *prefix = "";

		if (!value)
			continue;
		*value++ = '\0';
		value += strspn(value, " \t");
		value[strcspn(value, "\n")] = '\0';
		for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
			if (!strcmp(line, own[i]))
				prefix = "own.";
		snprintf(key, sizeof(key), "%sstatus.%.100s", prefix, line);
		put_str(key, value);
	}
	fclose(f);
}

/* The fields of /proc/self/stat from the third on, by their number in proc(5). */
static void put_stat(char **envp)
{
	/* State and ids, faults, times and sizes, addresses, signals (in status), the processor. */
	static const unsigned char same[] = { 4, 5, 6, 7, 8, 9, 18, 19, 20, 21, 31, 32, 33, 34, 38, 40, 41, 43, 44, 52 };
	unsigned long address[53] = { 0 };
	char data[4096], key[32], *field;
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, data, sizeof(data) - 1);
	unsigned int number = 3;

	if (fd >= 0)
		close(fd);
	if (n < 0) {
		put_str("stat", strerrorname_np(errno));
		return;
	}
	data[n] = '\0';
	field = strrchr(data, ')') + 2;
	for (field = strtok(field, " \n"); field; field = strtok(NULL, " \n"), number++) {
		if (number <= 52)
			address[number] = strtoul(field, NULL, 10);
		if (memchr(same, (int)number, sizeof(same))) {
			snprintf(key, sizeof(key), "stat.%u", number);
			put_str(key, field);
		}
	}
	/* How the addresses lie to each other; all are 0 for whom the kernel does not let see them. */
	printf("stat.seen=%d\n", !!address[26]);
	printf("stat.code=%ld\n", (long)(address[27] - address[26]));
	printf("stat.data=%ld\n", (long)(address[46] - address[45]));
	printf("stat.arguments=%ld\n", (long)(address[49] - address[48]));
	printf("stat.environment=%ld\n", (long)(address[51] - address[50]));
	printf("stat.between=%ld\n", (long)(address[50] - address[49]));
	printf("stat.argv=%d\n", !address[48] || !envp[0] || address[50] == (unsigned long)envp[0]);
}

/* Name, size and rights of the mappings that have a name; anonymous ones merge as their addresses fall. */
static void put_maps(void)
{
	char line[PATH_MAX + 128];
	FILE *f = fopen("/proc/self/maps", "re");

	if (!f) {
		put_str("maps", strerrorname_np(errno));
		return;
	}
	while (fgets(line, sizeof(line), f)) {
		unsigned long start, end, offset;
		char rights[8], value[PATH_MAX + 64];
		int name = 0;

		if (sscanf(line, "%lx-%lx %7s %lx %*s %*s %n", &start, &end, rights, &offset, &name) < 4)
			continue;
		line[strcspn(line, "\n")] = '\0';
		/* The first request of malloc decides the size of the heap, up to the page its random start is in. */
		if (!name || !line[name] || !strcmp(line + name, "[heap]"))
			continue;
		snprintf(value, sizeof(value), "%s %lx %lx %s", rights, end - start, offset, line + name);
		put_str(line[name] == '[' ? "map.special" : "map", value);
	}
	fclose(f);
}

static void put_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;

	if (!dir) {
		put_str("fd", strerrorname_np(errno));
		return;
	}
	while ((entry = readdir(dir))) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] != '.' && fd != dirfd(dir))
			printf("fd=%d %d\n", fd, fcntl(fd, F_GETFD));
	}
	closedir(dir);
}

/* Signal handling, as the kernel has it: glibc hides two signals. */
static void put_signals(void)
{
	struct {
		unsigned long handler, flags, restorer, mask;
	} action;

	for (int signal = 1; signal <= 64; signal++) {
		if (syscall(SYS_rt_sigaction, signal, NULL, &action, 8) < 0)
			continue;
		if (action.handler || action.flags || action.mask)
			printf("signal.%d=%#lx %#lx %#lx\n", signal, action.handler, action.flags, action.mask);
	}
}

static void put_limits(void)
{
	for (int resource = 0; resource < RLIM_NLIMITS; resource++) {
		struct rlimit limit = { 0, 0 };

		getrlimit(resource, &limit);
		printf("rlimit.%d=%lx %lx\n", resource, (unsigned long)limit.rlim_cur, (unsigned long)limit.rlim_max);
	}
}

static void put_timers(void)
{
	for (int which = 0; which < 3; which++) {
		struct itimerval timer = { 0 };

		getitimer(which, &timer);
		printf("itimer.%d=%ld.%06ld %ld.%06ld\n", which, timer.it_value.tv_sec, timer.it_value.tv_usec,
		       timer.it_interval.tv_sec, timer.it_interval.tv_usec);
	}
}

static void put_scheduling(void)
{
	unsigned char bytes[56] = { 0 };
	unsigned long cpus[64] = { 0 }, nodes[16] = { 0 };
	int policy = -1;

	put_call("sched_getattr", syscall(SYS_sched_getattr, 0, bytes, sizeof(bytes), 0));
	printf("sched=");
	for (size_t i = 0; i < sizeof(bytes); i++)
		printf("%02x", bytes[i]);
	printf("\n");
	printf("nice=%d\n", getpriority(PRIO_PROCESS, 0));
	put_call("ioprio", syscall(SYS_ioprio_get, 1, 0));
	put_call("affinity", syscall(SYS_sched_getaffinity, 0, sizeof(cpus), cpus));
	printf("cpus=%lx\n", cpus[0]);
	put_call("mempolicy", syscall(SYS_get_mempolicy, &policy, nodes, 1024, NULL, 0));
	printf("nodes=%d %lx\n", policy, nodes[0]);
}

static void put_prctls(void)
{
	static const struct {
		const char *name;
		int option;
	} values[] = {
		{ "keepcaps", PR_GET_KEEPCAPS },	{ "securebits", PR_GET_SECUREBITS },
		{ "no_new_privs", PR_GET_NO_NEW_PRIVS },	{ "dumpable", PR_GET_DUMPABLE },
		{ "timerslack", PR_GET_TIMERSLACK },	{ "thp_disable", PR_GET_THP_DISABLE },
		{ "mce_kill", PR_MCE_KILL_GET },	{ "seccomp", PR_GET_SECCOMP },
		{ "mdwe", PR_GET_MDWE },		{ "memory_merge", PR_GET_MEMORY_MERGE },
		{ "io_flusher", PR_GET_IO_FLUSHER },	{ "timing", PR_GET_TIMING },
	};
	int value;

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		put_call(values[i].name, prctl(values[i].option, 0, 0, 0, 0));
	for (int which = 0; which < 3; which++) {
		char key[32];

		snprintf(key, sizeof(key), "speculation.%d", which);
		put_call(key, prctl(PR_GET_SPECULATION_CTRL, which, 0, 0, 0));
	}
	value = -1;
	prctl(PR_GET_TSC, &value);
	printf("tsc=%d\n", value);
	value = -1;
	prctl(PR_GET_PDEATHSIG, &value);
	printf("pdeathsig=%d\n", value);
	value = -1;
	prctl(PR_GET_CHILD_SUBREAPER, &value);
	printf("child_subreaper=%d\n", value);
	printf("ambient=");
	for (unsigned long cap = 0; cap < 64; cap++)
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) == 1)
			printf("%lu ", cap);
	printf("\n");
}

static void put_namespaces(void)
{
	static const char *const names[] = {
		"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts",
	};
	char path[64];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "/proc/self/ns/%s", names[i]);
		put_link(path + strlen("/proc/self/"), path);
	}
}

static void put_keyrings(void)
{
	/* KEY_SPEC_THREAD_KEYRING to KEY_SPEC_GROUP_KEYRING; none is made for the asking. */
	for (int id = -1; id >= -6; id--) {
		char key[32];

		snprintf(key, sizeof(key), "keyring.%d", -id);
		put_call(key, syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, id, 0));
	}
}

static void put_ids(void)
{
	uid_t uid[3] = { 0 };
	gid_t gid[3] = { 0 };
	struct stat proc = { 0 };

	getresuid(&uid[0], &uid[1], &uid[2]);
	getresgid(&gid[0], &gid[1], &gid[2]);
	printf("uid=%u %u %u\n", uid[0], uid[1], uid[2]);
	printf("gid=%u %u %u\n", gid[0], gid[1], gid[2]);
	printf("own.pid=%d\n", getpid());
	printf("ppid=%d\npgid=%d\nsid=%d\n", getppid(), getpgrp(), getsid(0));
	/* Who owns it follows dumpability. */
	stat("/proc/self/stat", &proc);
	printf("proc.owner=%u %u\n", proc.st_uid, proc.st_gid);
}

/* Where things lie; the same every time without address space randomization. */
static void put_addresses(char **argv)
{
	const unsigned char *bytes = (const unsigned char *)getauxval(AT_RANDOM);

	printf("own.address.stack=%p\n", (void *)argv);
	printf("own.address.execfn=%#lx\n", getauxval(AT_EXECFN));
	printf("own.address.random=%#lx\n", getauxval(AT_RANDOM));
	printf("own.address.exe=%#lx\n", getauxval(AT_PHDR));
	printf("own.address.interpreter=%#lx\n", getauxval(AT_BASE));
	printf("own.address.vdso=%#lx\n", getauxval(AT_SYSINFO_EHDR));
	printf("own.address.brk=%#lx\n", syscall(SYS_brk, 0));
	printf("own.random=");
	for (int i = 0; bytes && i < 16; i++)
		printf("%02x", bytes[i]);
	printf("\n");
}

int main(int argc, char **argv, char **envp)
{
	static const char *const files[] = {
		"comm",	     "cmdline",	    "environ",	"cgroup",    "cpuset",	      "personality", "oom_score_adj",
		"loginuid",  "sessionid",   "uid_map",	"gid_map",   "setgroups",     "timens_offsets",
		"timers",    "timerslack_ns", "coredump_filter", "autogroup", "attr/current", "attr/exec",
		"attr/prev", "attr/fscreate", "attr/smack/current", "seccomp_cache",
	};
	static char buffer[1 << 16];
	char cwd[PATH_MAX];
	unsigned short control;
	unsigned int mxcsr;
	stack_t stack = { 0 };
	mode_t mask;

	/* Before anything of ours changes the break. */
	setvbuf(stdout, buffer, _IOFBF, sizeof(buffer));
	put_addresses(argv);
	printf("argc=%d\n", argc);
	for (int i = 0; i < argc; i++)
		put_str("arg", argv[i]);
	for (char **e = envp; *e; e++)
		put_str("env", *e);
	put_auxv(envp);
	put_link("exe", "/proc/self/exe");
	put_link("root", "/proc/self/root");
	put_str("cwd", getcwd(cwd, sizeof(cwd)) ? cwd : "(none)");
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		put_file(files[i]);
	put_status();
	put_stat(envp);
	put_maps();
	put_fds();
	put_signals();
	put_limits();
	put_timers();
	put_scheduling();
	put_prctls();
	put_namespaces();
	put_keyrings();
	put_ids();
	mask = umask(0);
	umask(mask);
	printf("umask=%04o\n", (unsigned int)mask);
	sigaltstack(NULL, &stack);
	printf("altstack=%d %zu\n", stack.ss_flags, stack.ss_size);
	__asm__("stmxcsr %0" : "=m"(mxcsr));
	__asm__("fnstcw %0" : "=m"(control));
	printf("fpu=%#x %#x\n", mxcsr, control);
	put_call("membarrier", syscall(SYS_membarrier, MEMBARRIER_GET_REGISTRATIONS, 0, 0));
	printf("end=\n");
	return 0;
}
