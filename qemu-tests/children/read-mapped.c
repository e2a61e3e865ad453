// SPDX-License-Identifier: GPL-2.0-only OR MIT
// read-mapped FILE: maps the file privately and reads a byte of each page; exits 0 if all are 'x'.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
	struct stat info;
	int fd = argc == 2 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;

	if (fd < 0 || fstat(fd, &info) < 0)
		return 1;
	const volatile char *bytes = mmap(0, info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (bytes == MAP_FAILED)
		return 2;
	for (off_t at = 0; at < info.st_size; at += 4096)
		if (bytes[at] != 'x')
			return 3;
	return 0;
}
