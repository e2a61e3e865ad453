// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * A set-user-ID root program of the ordinary kind: asks for a password, which it reads from a file that only root may read,
 * and does something as root if it was right. Exits with 1 if it was wrong, with 77 if it has done that as root. With an
 * argument it prints instead where the password, main() and what does something as root lie.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char secret[64];

__attribute__((noinline)) static void grant(void)
{
	_exit(setuid(0) || getuid() ? 78 : 77);
}

__attribute__((noinline)) static int check(void)
{
	char given[64] = "";
	ssize_t n;

	puts("password?");
	fflush(stdout);
	n = read(0, given, sizeof(given) - 1);
	if (n > 0)
		given[n] = '\0';
	return !strcmp(given, secret);
}

int main(int argc, char **argv)
{
	FILE *f;

	if (argc > 1) {
		printf("%lx %lx %lx\n", (unsigned long)secret, (unsigned long)main, (unsigned long)grant);
		return 0;
	}
	(void)argv;
	f = fopen("/var/tmp/spawn-template-password", "re");
	if (!f || !fgets(secret, sizeof(secret), f))
		return 3;
	if (check())
		grant();
	return 1;
}
