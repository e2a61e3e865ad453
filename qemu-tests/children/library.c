// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * A library to preload, which does what the program's arguments say, when it is loaded, and ends the program with 99 if
 * something is not as it should be:
 *
 *     look N          reads the first N pages of its data
 *     bss N           writes to the first N pages of its .bss
 *     uffd            prints how many of the first 16 pages of its .bss are present, and how many of them
 *                     userfaultfd can fill
 *     read FILE STEP  maps the file, reads the first byte of each STEPth page, and unmaps it
 *     confined FILE STEP, hidden FILE STEP
 *                     does so under a seccomp filter, or while it is not dumpable
 *     count FILE      maps the file, twice, and prints how many pages are present each time
 *     pinned FILE     has io_uring read the file to a registered page of its data, and prints the first byte
 *                     before and after the page was reclaimed
 *     exec PROGRAM    executes it
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE	4096
#define PAGES	480
#define WATCHED	16

typedef volatile char page[PAGE];

static page bss[PAGES] __attribute__((aligned(PAGE)));
static page data[PAGES] __attribute__((aligned(PAGE))) = { { 1 } };

static void want(int good)
{
	if (!good)
		_exit(99);
}

static int present(const volatile void *start, size_t size)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int count = 0;
	uint64_t entry;

	want(pagemap >= 0);
	for (size_t n = 0; n < (size + PAGE - 1) / PAGE; n++) {
		want(pread(pagemap, &entry, 8, ((uintptr_t)start / PAGE + n) * 8) == 8);
		count += entry >> 63;
	}
	close(pagemap);
	return count;
}

static volatile char *map(const char *path, size_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat info;

	want(fd >= 0 && !fstat(fd, &info));
	*size = info.st_size;
	volatile char *bytes = mmap(0, info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	want(bytes != MAP_FAILED);
	close(fd);
	return bytes;
}

static void read_steps(const char *path, int step)
{
	size_t size;
	volatile char *bytes = map(path, &size);

	for (size_t at = 0; at < size; at += step * PAGE)
		(void)bytes[at];
	munmap((void *)bytes, size);
}

/* Allows everything. */
static void confine(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = { 1, &allow };

	want(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	want(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

static void fill_by_userfaultfd(void)
{
	static char page[PAGE] __attribute__((aligned(PAGE)));
	uintptr_t start = (uintptr_t)bss;
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register all = {
		.range = { start, WATCHED * PAGE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int there = present(bss, WATCHED * PAGE), filled = 0;
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC);

	want(uffd >= 0 && !ioctl(uffd, UFFDIO_API, &api) && !ioctl(uffd, UFFDIO_REGISTER, &all));
	page[0] = 'x';
	for (int n = 0; n < WATCHED; n++) {
		struct uffdio_copy copy = {
			.dst = start + n * PAGE,
			.src = (uintptr_t)page,
			.len = PAGE,
		};

		filled += !ioctl(uffd, UFFDIO_COPY, &copy);
	}
	printf("%d %d\n", there, filled);
}

static void *map_ring(int ring, size_t size, off_t offset)
{
	void *start = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, offset);

	want(start != MAP_FAILED);
	return start;
}

static void read_pinned(const char *path)
{
	volatile char *page = data[PAGES / 2];
	struct iovec buffer = { (void *)page, PAGE };
	struct io_uring_params params = { 0 };
	int file = open(path, O_RDONLY | O_CLOEXEC), ring = syscall(SYS_io_uring_setup, 1, &params);

	want(file >= 0 && ring >= 0);
	want(!syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1));
	char *queue = map_ring(ring, params.sq_off.array + sizeof(uint32_t), IORING_OFF_SQ_RING);
	struct io_uring_sqe *entry = map_ring(ring, sizeof(*entry), IORING_OFF_SQES);

	*entry = (struct io_uring_sqe) {
		.opcode = IORING_OP_READ_FIXED,
		.fd = file,
		.addr = (uintptr_t)page,
		.len = PAGE,
	};
	*(uint32_t *)(queue + params.sq_off.array) = 0;
	__atomic_store_n((uint32_t *)(queue + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	want(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) == 1);
	want(!syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, 0, 0));
	close(ring);

	char before = page[0];

	/* The pin may go a moment later. */
	for (int n = 0; n < 20; n++) {
		want(!madvise((void *)page, PAGE, MADV_PAGEOUT));
		usleep(10000);
	}
	printf("%c %c\n", before, page[0]);
}

__attribute__((constructor)) static void run(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	size_t size, more;

	if (!strcmp(name, "look") && argc == 3) {
		for (int n = 0; n < atoi(argv[2]); n++)
			want(data[n][0] == !n);
	} else if (!strcmp(name, "bss") && argc == 3) {
		for (int n = 0; n < atoi(argv[2]); n++)
			want(!bss[n][0]++);
	} else if (!strcmp(name, "uffd")) {
		fill_by_userfaultfd();
	} else if (!strcmp(name, "read") && argc == 4) {
		read_steps(argv[2], atoi(argv[3]));
	} else if (!strcmp(name, "confined") && argc == 4) {
		confine();
		read_steps(argv[2], atoi(argv[3]));
	} else if (!strcmp(name, "hidden") && argc == 4) {
		want(!prctl(PR_SET_DUMPABLE, 0));
		read_steps(argv[2], atoi(argv[3]));
		want(!prctl(PR_SET_DUMPABLE, 1));
	} else if (!strcmp(name, "count") && argc == 3) {
		volatile char *first = map(argv[2], &size), *second = map(argv[2], &more);

		printf("%d %d\n", present(first, size), present(second, more));
	} else if (!strcmp(name, "pinned") && argc == 3) {
		read_pinned(argv[2]);
	} else if (!strcmp(name, "exec") && argc == 3) {
		char *left[] = { argv[2], 0 }, *none[] = { 0 };

		execve(argv[2], left, none);
		want(0);
	} else {
		want(argc == 1);
	}
}
