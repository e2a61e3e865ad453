// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Prints what only the first instruction of a program can see, one "key=value" per line, without any C library: registers,
 * and what a library would set up for itself (restartable sequences, robust futexes, thread pointer, thread ID address).
 * Built with -nostdlib -static.
 */
#include <asm/prctl.h>
#include <linux/prctl.h>
#include <linux/signal.h>
#include <linux/unistd.h>

/* The order in which _start pushes them. */
static const char *const names[] = {
	"r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rdi", "rsi", "rbp", "rbx", "rdx", "rcx", "rax", "flags",
};

__asm__(".globl _start\n"
	"_start:\n"
	"	pushfq\n"
	"	push %rax\n"
	"	push %rcx\n"
	"	push %rdx\n"
	"	push %rbx\n"
	"	push %rbp\n"
	"	push %rsi\n"
	"	push %rdi\n"
	"	push %r8\n"
	"	push %r9\n"
	"	push %r10\n"
	"	push %r11\n"
	"	push %r12\n"
	"	push %r13\n"
	"	push %r14\n"
	"	push %r15\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call run\n"
	"	hlt\n");

static long call(long nr, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return result;
}

static char text[4096];
static unsigned long used;

static void put(const char *key, unsigned long value)
{
	while (*key)
		text[used++] = *key++;
	text[used++] = '=';
	for (int shift = 60; shift >= 0; shift -= 4)
		text[used++] = "0123456789abcdef"[value >> shift & 15];
	text[used++] = '\n';
}

static unsigned short selector_ds(void)
{
	unsigned short value;

	__asm__("mov %%ds, %0" : "=r"(value));
	return value;
}

static unsigned short selector_cs(void)
{
	unsigned short value;

	__asm__("mov %%cs, %0" : "=r"(value));
	return value;
}

__attribute__((used)) void run(const unsigned long *registers)
{
	/* struct rseq, 32 bytes, as long as the kernel wants to keep it. */
	static unsigned long rseq[4] __attribute__((aligned(32)));
	unsigned long fs = 1, gs = 1, address = 1, head = 1, length = 1, stack[3] = { 1, 1, 1 };
	unsigned int mxcsr;

	/* How a system call ended is seen in rcx and r11, which no program may rely on. */
	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (i != 4 && i != 13)
			put(names[i], registers[i]);
	__asm__("stmxcsr %0" : "=m"(mxcsr));
	put("mxcsr", mxcsr);
	put("cs", selector_cs());
	put("ds", selector_ds());
	put("stack.alignment", (unsigned long)(registers + 16) & 15);
	put("argc", registers[16]);
	call(__NR_arch_prctl, ARCH_GET_FS, (long)&fs, 0, 0);
	put("fs.base", fs);
	call(__NR_arch_prctl, ARCH_GET_GS, (long)&gs, 0, 0);
	put("gs.base", gs);
	put("tid.address.result", call(__NR_prctl, PR_GET_TID_ADDRESS, (long)&address, 0, 0));
	put("tid.address", address);
	put("robust.result", call(__NR_get_robust_list, 0, (long)&head, (long)&length, 0));
	put("robust.head", head);
	call(__NR_sigaltstack, 0, (long)stack, 0, 0);
	put("altstack.flags", stack[1] & 0xffffffff);
	/* Good only where none is registered: EBUSY otherwise. */
	put("rseq.result", call(__NR_rseq, (long)rseq, sizeof(rseq), 0, 0x53053053));
	call(__NR_write, 1, (long)text, used, 0);
	call(__NR_exit_group, 0, 0, 0, 0);
	__builtin_unreachable();
}
