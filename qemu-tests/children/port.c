// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Reads one byte from port 0x80, which only a process that has the permission for it survives.
#include <sys/io.h>

int main(void)
{
	inb(0x80);
	return 0;
}
