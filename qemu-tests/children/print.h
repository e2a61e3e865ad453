/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Lines of the form "key=value"; control characters and backslashes in a value are written \xHH. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static inline void put(const char *key, const char *value, size_t len)
{
	printf("%s=", key);
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)value[i];

		if (c < 0x20 || c == 0x7f || c == '\\')
			printf("\\x%02x", c);
		else
			putchar(c);
	}
	putchar('\n');
}

static inline void put_str(const char *key, const char *value)
{
	put(key, value, strlen(value));
}

/* Where a symbolic link leads, or the error. */
static inline void put_link(const char *key, const char *path)
{
	char target[PATH_MAX];
	ssize_t n = readlink(path, target, sizeof(target));

	if (n >= 0)
		put(key, target, (size_t)n);
	else
		put_str(key, strerrorname_np(errno));
}
