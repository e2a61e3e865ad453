// SPDX-License-Identifier: GPL-2.0-only OR MIT
// The smallest C program: what is left is what the C library's start costs.
int main(void)
{
	return 0;
}
