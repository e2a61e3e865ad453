// SPDX-License-Identifier: GPL-2.0-only OR MIT
// sleep [SECONDS]: sleeps that long, or until a signal ends it.
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc > 1)
		sleep((unsigned int)atoi(argv[1]));
	else
		for (;;)
			pause();
	return 0;
}
