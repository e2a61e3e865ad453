/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Spawn templates: start a program again and again without fork and exec.
 *
 * A template is a file descriptor that keeps one opened executable and its
 * parsed ELF metadata. spawn_template_create() makes one,
 * spawn_template_spawn() starts a new process from it.
 *
 * Every structure grows at its end only. The caller passes the size it knows;
 * a kernel that knows less accepts a larger structure when the tail it does
 * not know is all zero and answers E2BIG otherwise. Fields that a flag or an
 * action does not use must be zero.
 */
#ifndef _UAPI_LINUX_SPAWN_TEMPLATE_H
#define _UAPI_LINUX_SPAWN_TEMPLATE_H

#include <linux/types.h>
#include <linux/openat2.h>

/* spawn_template_create_args.flags */
/* The template fd gets O_CLOEXEC. */
#define SPAWN_TEMPLATE_CREATE_CLOEXEC		(1ULL << 0)

/**
 * struct spawn_template_create_args - argument of spawn_template_create()
 * @flags:       SPAWN_TEMPLATE_CREATE_*
 * @execfd:      open file descriptor of the executable, or -1
 * @exec_flags:  must be 0
 * @filename:    pointer to an absolute path, or 0
 * @actions:     must be 0; fd numbers belong to a process, not to a template
 * @actions_len: must be 0
 * @reserved:    must be 0
 *
 * Exactly one of @execfd and @filename names the executable.
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

/**
 * struct spawn_template_spawn_args - argument of spawn_template_spawn()
 * @flags:       SPAWN_TEMPLATE_SPAWN_*
 * @pidfd:       pointer to an int that receives the child's pidfd; mandatory
 * @argv:        pointer to the NULL terminated argument vector, as execve()
 * @envp:        pointer to the NULL terminated environment, as execve()
 * @actions:     pointer to @actions_len struct spawn_template_action
 * @actions_len: number of actions, at most SPAWN_TEMPLATE_MAX_ACTIONS
 * @reserved:    must be 0
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
};

#define SPAWN_TEMPLATE_SPAWN_ARGS_SIZE_VER0	80 /* sizeof first published struct */

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
 *	@newfd
 * @SPAWN_TEMPLATE_ACTION_CLOSE_RANGE:
 *	close_range(@fd, @newfd, @flags); a @newfd of -1 is the highest number
 * @SPAWN_TEMPLATE_ACTION_SIGMASK:
 *	set the blocked signals from the struct spawn_template_sigset at @arg
 * @SPAWN_TEMPLATE_ACTION_SIGDEFAULT:
 *	set the listed signals to SIG_DFL; struct spawn_template_sigset at @arg
 */
enum spawn_template_action_type {
	SPAWN_TEMPLATE_ACTION_CLOSE		= 0,
	SPAWN_TEMPLATE_ACTION_DUP2		= 1,
	SPAWN_TEMPLATE_ACTION_FCHDIR		= 2,
	SPAWN_TEMPLATE_ACTION_OPEN		= 3,
	SPAWN_TEMPLATE_ACTION_CLOSE_RANGE	= 4,
	SPAWN_TEMPLATE_ACTION_SIGMASK		= 5,
	SPAWN_TEMPLATE_ACTION_SIGDEFAULT	= 6,
};

/**
 * struct spawn_template_action - one step the child takes before it execs
 * @type:  enum spawn_template_action_type
 * @flags: see the type
 * @fd:    see the type
 * @newfd: see the type
 * @arg:   see the type
 *
 * Actions run in array order. The first that fails ends the spawn with its
 * error.
 */
struct spawn_template_action {
	__u32 type;
	__u32 flags;
	__s32 fd;
	__s32 newfd;
	__aligned_u64 arg;
};

/**
 * struct spawn_template_open - what SPAWN_TEMPLATE_ACTION_OPEN opens
 * @path: pointer to the path
 * @how:  as for openat2(); O_CLOEXEC in @how.flags applies to the new fd
 */
struct spawn_template_open {
	__aligned_u64 path;
	struct open_how how;
};

/**
 * struct spawn_template_sigset - a signal set for SIGMASK and SIGDEFAULT
 * @sigset:     pointer to the set
 * @sigsetsize: its size in bytes; 8, as rt_sigprocmask() wants it
 */
struct spawn_template_sigset {
	__aligned_u64 sigset;
	__u64 sigsetsize;
};

#endif /* _UAPI_LINUX_SPAWN_TEMPLATE_H */
