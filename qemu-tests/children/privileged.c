// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * A program that has something to protect: a text in its memory. Prints "TEXT STACK EUID CAPABILITIES\n", the first two as
 * addresses and all in hexadecimal; waits for a byte; exits with 9 if somebody has changed the text meanwhile.
 */
#define _GNU_SOURCE
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TEXT "what only this program may know"

static volatile char text[64] = TEXT;

int main(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };
	char byte;

	if (syscall(SYS_capget, &header, data))
		return 8;
	printf("%lx %lx %x %x\n", (unsigned long)text, (unsigned long)&byte, geteuid(), data[0].effective);
	fflush(stdout);
	if (read(0, &byte, 1) < 0)
		return 7;
	return strcmp((const char *)text, TEXT) ? 9 : 0;
}
