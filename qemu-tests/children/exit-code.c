// SPDX-License-Identifier: GPL-2.0-only OR MIT
// exit-code N: exits with status N.
#include <stdlib.h>

int main(int argc, char **argv)
{
	return argc == 2 ? atoi(argv[1]) : 99;
}
