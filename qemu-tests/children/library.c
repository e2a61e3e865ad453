// SPDX-License-Identifier: GPL-2.0-only OR MIT
// A library that writes to 16 pages of its .bss when it is loaded, and ends the program if they are not zeros before.
#include <unistd.h>

#define PAGES	16

static volatile char area[PAGES][4096] __attribute__((aligned(4096)));

__attribute__((constructor)) static void touch(void)
{
	for (int page = 0; page < PAGES; page++) {
		for (int at = 0; at < 4096; at++) {
			if (area[page][at])
				_exit(99);
		}
		area[page][page] = 1;
	}
}
