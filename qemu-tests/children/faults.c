// SPDX-License-Identifier: GPL-2.0-only OR MIT
// faults WAY FILE: takes page faults, some hundred of one kind: "read" of a page of the file, "write" of new anonymous
// memory, "copy" of a page of the file that was read before, "both" of one that was not.
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PAGE		4096
#define MOST_PAGES	1024

int main(int argc, char **argv)
{
	struct stat info;
	int fd = argc == 3 ? open(argv[2], O_RDONLY | O_CLOEXEC) : -1;

	if (fd < 0 || fstat(fd, &info) < 0)
		return 1;

	int is_new = !strcmp(argv[1], "write"), is_read = !strcmp(argv[1], "read");
	size_t size = is_new || info.st_size > MOST_PAGES * PAGE ? MOST_PAGES * PAGE : info.st_size;
	int kind = is_new ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_PRIVATE;
	volatile char *bytes = mmap(0, size, PROT_READ | PROT_WRITE, kind, is_new ? -1 : fd, 0);

	if (bytes == MAP_FAILED)
		return 2;
	if (is_new && madvise((void *)bytes, size, MADV_NOHUGEPAGE) < 0)
		return 3;
	for (size_t at = 0; at < size && (is_read || !strcmp(argv[1], "copy")); at += PAGE)
		(void)bytes[at];
	for (size_t at = 0; at < size && !is_read; at += PAGE)
		bytes[at] = 1;
	return 0;
}
