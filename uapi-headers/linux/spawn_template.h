/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Spawn templates: start a program again and again without fork and exec.
 *
 * A template is a file descriptor that keeps one opened executable and its
 * parsed ELF metadata. spawn_template_create() makes one,
 * spawn_template_spawn() starts a new process from it.
 *
 * All structures but struct spawn_template_action grow at their end only. The
 * caller passes the size it knows; a kernel that knows less accepts larger
 * structures when the tail it does not know is all zero and answers E2BIG
 * otherwise. An action stays as it is; what a new type needs lies behind its
 * @arg. Fields that a flag or an action does not use must be zero.
 *
 * Only 64-bit callers can use the calls: argument vectors are arrays of
 * pointers, which have another size in the others. Those get ENOSYS.
 */
#ifndef _UAPI_LINUX_SPAWN_TEMPLATE_H
#define _UAPI_LINUX_SPAWN_TEMPLATE_H

#include <linux/openat2.h>
#include <linux/types.h>

/* spawn_template_create_args.flags */
/* The template fd gets O_CLOEXEC. */
#define SPAWN_TEMPLATE_CREATE_CLOEXEC		(1ULL << 0)
/*
 * Do not learn from a child which pages of its files the program touches, to
 * map them at once for later ones. What a child finds in them is the same.
 */
#define SPAWN_TEMPLATE_CREATE_NO_LEARNING	(1ULL << 1)

/**
 * struct spawn_template_create_args - argument of spawn_template_create()
 * @flags:       SPAWN_TEMPLATE_CREATE_*
 * @execfd:      directory that a relative @filename starts from, AT_FDCWD for
 *               the working directory; or the executable, if @filename is empty
 * @exec_flags:  AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW
 * @filename:    pointer to the path of the executable; 0 if @execfd alone names
 *               it, which then needs no flag, as in the first posted version
 * @actions:     must be 0: descriptor numbers belong to a process, while a
 *               template can be used by many
 * @actions_len: must be 0, likewise
 * @reserved:    must be 0, so that they can get a meaning
 *
 * @execfd, @filename and @exec_flags name the executable as they do for
 * execveat(). @execfd does not matter if @filename is absolute. An absolute
 * path must lead to the same file at each spawn. What is named in another way
 * is kept open; but a rename or a link makes a template stale, too, where it
 * changes the file's time of last status change.
 */
struct spawn_template_create_args {
	__aligned_u64 flags;
	__s32 execfd;
	__u32 exec_flags;
	__aligned_u64 filename;
	__aligned_u64 actions;
	__aligned_u64 actions_len;
	__aligned_u64 reserved[4];
};

#define SPAWN_TEMPLATE_CREATE_ARGS_SIZE_VER0	72 /* sizeof first published struct */

/* spawn_template_spawn_args.flags */
/* Start from a copy of the caller's descriptor table. */
#define SPAWN_TEMPLATE_SPAWN_INHERIT_FDS	(1ULL << 0)
/*
 * Return once the child exists instead of waiting until it has executed the
 * program. What fails after that ends the child with exit status 127.
 */
#define SPAWN_TEMPLATE_SPAWN_NOWAIT		(1ULL << 1)
/* Make no pidfd; the child is waited for by its process id. */
#define SPAWN_TEMPLATE_SPAWN_NO_PIDFD		(1ULL << 2)
/*
 * The template must be the one whose id is @template_id, whatever has become of
 * the descriptor: EBADF if it is another one, no template, or not open.
 */
#define SPAWN_TEMPLATE_SPAWN_CHECK_ID		(1ULL << 3)

/**
 * struct spawn_template_spawn_args - argument of spawn_template_spawn()
 * @flags:       SPAWN_TEMPLATE_SPAWN_*
 * @pidfd:       pointer to an int that receives the child's pidfd, or -1 if the
 *               call fails after it has read its arguments and knows all
 *               @flags; 0 with SPAWN_TEMPLATE_SPAWN_NO_PIDFD, and only then
 * @argv:        pointer to the NULL terminated argument vector, as execve()
 * @envp:        pointer to the NULL terminated environment, as execve()
 * @actions:     pointer to @actions_len struct spawn_template_action
 * @actions_len: number of actions, at most SPAWN_TEMPLATE_MAX_ACTIONS
 * @reserved:    must be 0, so that they can get a meaning
 * @result:      pointer to a struct spawn_template_result, or 0
 * @result_size: size of *@result as the caller knows it; 0 without @result
 * @template_id: "id" of the template's fdinfo with
 *               SPAWN_TEMPLATE_SPAWN_CHECK_ID, else 0
 *
 * Without SPAWN_TEMPLATE_SPAWN_INHERIT_FDS the child has the caller's
 * descriptors 0, 1 and 2 as far as they are open, and what the actions place,
 * at any number; nothing else. Actions may name any descriptor of the caller
 * as their source all the same.
 */
struct spawn_template_spawn_args {
	__aligned_u64 flags;
	__aligned_u64 pidfd;
	__aligned_u64 argv;
	__aligned_u64 envp;
	__aligned_u64 actions;
	__aligned_u64 actions_len;
	__aligned_u64 reserved[4];
	__aligned_u64 result;
	__aligned_u64 result_size;
	__aligned_u64 template_id;
};

#define SPAWN_TEMPLATE_SPAWN_ARGS_SIZE_VER0	104 /* sizeof first published struct */

/**
 * enum spawn_template_stage - how far a spawn came
 * @SPAWN_TEMPLATE_STAGE_NONE:
 *	it did not fail
 * @SPAWN_TEMPLATE_STAGE_ARGUMENTS:
 *	the arguments are wrong, cannot be read or are too large, there is no
 *	template, or no pidfd can be had
 * @SPAWN_TEMPLATE_STAGE_IDENTITY:
 *	the caller may not use the template (EACCES), its seccomp filters forbid
 *	what the spawn does, or the executable has changed (ESTALE)
 * @SPAWN_TEMPLATE_STAGE_CREATE:
 *	the child cannot be made: limits, memory, permission to enter the cgroup
 * @SPAWN_TEMPLATE_STAGE_ACTION:
 *	an action failed in the child
 * @SPAWN_TEMPLATE_STAGE_EXEC:
 *	the child could not execute the program
 */
enum spawn_template_stage {
	SPAWN_TEMPLATE_STAGE_NONE		= 0,
	SPAWN_TEMPLATE_STAGE_ARGUMENTS		= 1,
	SPAWN_TEMPLATE_STAGE_IDENTITY		= 2,
	SPAWN_TEMPLATE_STAGE_CREATE		= 3,
	SPAWN_TEMPLATE_STAGE_ACTION		= 4,
	SPAWN_TEMPLATE_STAGE_EXEC		= 5,
};

/**
 * struct spawn_template_result - what failed
 * @stage:    enum spawn_template_stage
 * @action:   index of the action that is wrong or failed, or -1
 * @error:    the errno of the failure, or 0
 * @reserved: set to 0
 *
 * A kernel that knows more than the caller leaves the rest out, one that knows
 * less clears what it does not know. Written by a call that returns success
 * too; the call leaves it alone only if it cannot read its arguments, or the
 * size or address of the result is wrong.
 */
struct spawn_template_result {
	__u32 stage;
	__s32 action;
	__s32 error;
	__u32 reserved;
};

#define SPAWN_TEMPLATE_RESULT_SIZE_VER0		16 /* sizeof first published struct */

#define SPAWN_TEMPLATE_MAX_ACTIONS		256 /* more is E2BIG */

/**
 * enum spawn_template_action_type - what an action does, and the fields it uses
 * @SPAWN_TEMPLATE_ACTION_CLOSE:
 *	close @fd; closing a descriptor that is not open is no error
 * @SPAWN_TEMPLATE_ACTION_DUP2:
 *	duplicate @fd to @newfd; @flags is 0 or O_CLOEXEC. When both are the
 *	same number @flags must be 0, and FD_CLOEXEC is cleared
 * @SPAWN_TEMPLATE_ACTION_FCHDIR:
 *	change the working directory to the directory open as @fd
 * @SPAWN_TEMPLATE_ACTION_OPEN:
 *	open the file described by the struct spawn_template_open at @arg
 *	relative to @fd (AT_FDCWD is the working directory) and install it as
 *	@newfd, in the place of what is there by then
 * @SPAWN_TEMPLATE_ACTION_CLOSE_RANGE:
 *	close_range(@fd, @newfd, @flags); a @newfd of -1 is the highest number
 * @SPAWN_TEMPLATE_ACTION_SIGMASK:
 *	set the blocked signals from the struct spawn_template_sigset at @arg
 * @SPAWN_TEMPLATE_ACTION_SIGDEFAULT:
 *	set the listed signals to SIG_DFL; struct spawn_template_sigset at @arg
 * @SPAWN_TEMPLATE_ACTION_CHDIR:
 *	change the working directory to the path at @arg
 * @SPAWN_TEMPLATE_ACTION_SETSID:
 *	setsid()
 * @SPAWN_TEMPLATE_ACTION_SETPGID:
 *	setpgid(0, @arg)
 * @SPAWN_TEMPLATE_ACTION_TCSETPGRP:
 *	make the child's process group the foreground one of the terminal open
 *	as @fd
 * @SPAWN_TEMPLATE_ACTION_SETCTTY:
 *	make the terminal open as @fd the controlling one: ioctl(@fd, TIOCSCTTY,
 *	0); the child has to lead a session
 * @SPAWN_TEMPLATE_ACTION_UMASK:
 *	umask(@arg), at most 0777
 * @SPAWN_TEMPLATE_ACTION_RLIMIT:
 *	set a resource limit from the struct spawn_template_rlimit at @arg. The
 *	size of the arguments is limited by both the caller's RLIMIT_STACK and
 *	the child's
 * @SPAWN_TEMPLATE_ACTION_SCHED:
 *	sched_setattr(0, @arg, 0): policy, priority, nice value, ...; the size
 *	is in the structure, where it is left as it is if that is too large
 * @SPAWN_TEMPLATE_ACTION_RESETIDS:
 *	set the effective user and group ID to the real ones
 * @SPAWN_TEMPLATE_ACTION_SETUID:
 *	setuid(@arg)
 * @SPAWN_TEMPLATE_ACTION_SETGID:
 *	setgid(@arg)
 * @SPAWN_TEMPLATE_ACTION_SETGROUPS:
 *	set the supplementary groups from the struct spawn_template_groups at
 *	@arg
 * @SPAWN_TEMPLATE_ACTION_NO_NEW_PRIVS:
 *	prctl(PR_SET_NO_NEW_PRIVS, 1)
 * @SPAWN_TEMPLATE_ACTION_PDEATHSIG:
 *	prctl(PR_SET_PDEATHSIG, @arg)
 * @SPAWN_TEMPLATE_ACTION_SIGIGNORE:
 *	set the listed signals to SIG_IGN; struct spawn_template_sigset at @arg
 * @SPAWN_TEMPLATE_ACTION_CGROUP:
 *	the child is born in the cgroup (version 2) whose directory the caller
 *	has open as @fd, whatever the other actions do with that number; at most
 *	once, and at any place among the actions
 *
 * Fields that are not named must be 0, but for @arg_size of a type with a
 * struct spawn_template_* at @arg. A type that the kernel does not know is
 * EINVAL, and 0 is none; /proc/spawn_template names those that it knows.
 */
enum spawn_template_action_type {
	SPAWN_TEMPLATE_ACTION_CLOSE		= 1,
	SPAWN_TEMPLATE_ACTION_DUP2		= 2,
	SPAWN_TEMPLATE_ACTION_FCHDIR		= 3,
	SPAWN_TEMPLATE_ACTION_OPEN		= 4,
	SPAWN_TEMPLATE_ACTION_CLOSE_RANGE	= 5,
	SPAWN_TEMPLATE_ACTION_SIGMASK		= 6,
	SPAWN_TEMPLATE_ACTION_SIGDEFAULT	= 7,
	SPAWN_TEMPLATE_ACTION_CHDIR		= 8,
	SPAWN_TEMPLATE_ACTION_SETSID		= 9,
	SPAWN_TEMPLATE_ACTION_SETPGID		= 10,
	SPAWN_TEMPLATE_ACTION_TCSETPGRP		= 11,
	SPAWN_TEMPLATE_ACTION_SETCTTY		= 12,
	SPAWN_TEMPLATE_ACTION_UMASK		= 13,
	SPAWN_TEMPLATE_ACTION_RLIMIT		= 14,
	SPAWN_TEMPLATE_ACTION_SCHED		= 15,
	SPAWN_TEMPLATE_ACTION_RESETIDS		= 16,
	SPAWN_TEMPLATE_ACTION_SETUID		= 17,
	SPAWN_TEMPLATE_ACTION_SETGID		= 18,
	SPAWN_TEMPLATE_ACTION_SETGROUPS		= 19,
	SPAWN_TEMPLATE_ACTION_NO_NEW_PRIVS	= 20,
	SPAWN_TEMPLATE_ACTION_PDEATHSIG		= 21,
	SPAWN_TEMPLATE_ACTION_SIGIGNORE		= 22,
	SPAWN_TEMPLATE_ACTION_CGROUP		= 23,
};

/**
 * struct spawn_template_action - one step the child takes before it execs
 * @type:     enum spawn_template_action_type
 * @flags:    see the type
 * @fd:       see the type
 * @newfd:    see the type
 * @arg:      see the type
 * @arg_size: size of the structure at @arg as the caller knows it; 0 is the
 *            size of its first version, SPAWN_TEMPLATE_*_SIZE_VER0, for programs
 *            written for the first posted version, which had no such field
 *
 * Actions run in array order, but for CGROUP, in which the child is born, and
 * SIGMASK, which takes effect after all others: until then all signals are
 * blocked. The first action that fails ends the spawn with its error.
 */
struct spawn_template_action {
	__u32 type;
	__u32 flags;
	__s32 fd;
	__s32 newfd;
	__aligned_u64 arg;
	__aligned_u64 arg_size;
};

/**
 * struct spawn_template_open - what SPAWN_TEMPLATE_ACTION_OPEN opens
 * @path: pointer to the path
 * @how:  how to open it, as openat2(); O_CLOEXEC applies to the new fd. Always
 *        the last field, as it grows with openat2()
 */
struct spawn_template_open {
	__aligned_u64 path;
	struct open_how how;
};

#define SPAWN_TEMPLATE_OPEN_SIZE_VER0		32 /* sizeof first published struct */

/**
 * struct spawn_template_sigset - a signal set for SIGMASK, SIGDEFAULT, SIGIGNORE
 * @sigset:     pointer to the set
 * @sigsetsize: its size in bytes; 8, as rt_sigprocmask() wants it
 *
 * SIGKILL and SIGSTOP in the set are left out silently.
 */
struct spawn_template_sigset {
	__aligned_u64 sigset;
	__u64 sigsetsize;
};

#define SPAWN_TEMPLATE_SIGSET_SIZE_VER0		16 /* sizeof first published struct */

/**
 * struct spawn_template_rlimit - what SPAWN_TEMPLATE_ACTION_RLIMIT sets
 * @resource: RLIMIT_*
 * @cur:      soft limit; RLIM64_INFINITY is no limit
 * @max:      hard limit, likewise
 */
struct spawn_template_rlimit {
	__u64 resource;
	__u64 cur;
	__u64 max;
};

#define SPAWN_TEMPLATE_RLIMIT_SIZE_VER0		24 /* sizeof first published struct */

/**
 * struct spawn_template_groups - what SPAWN_TEMPLATE_ACTION_SETGROUPS sets
 * @groups: pointer to @count group IDs of 32 bits each
 * @count:  at most NGROUPS_MAX
 */
struct spawn_template_groups {
	__aligned_u64 groups;
	__u64 count;
};

#define SPAWN_TEMPLATE_GROUPS_SIZE_VER0		16 /* sizeof first published struct */

#endif /* _UAPI_LINUX_SPAWN_TEMPLATE_H */
