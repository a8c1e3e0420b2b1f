/* The clock of a database in a test: preloaded, it makes the server take its time from a file. The file
 * has two numbers of 64 bits: nanoseconds since 1970, and how often that number changed. While it is 0,
 * the time is that of the machine.
 *
 *     cc -shared -fPIC -O2 -o clock.so clock.c -ldl
 *     TEST_CLOCK=FILE LD_PRELOAD=./clock.so redis-server
 *
 * The monotonic clock goes on, and with each change by 2 ms more, because Valkey asks for the time only
 * once in a millisecond of that clock.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *shared;

__attribute__((constructor)) static void open_clock(void) {
	const char *file = getenv("TEST_CLOCK");
	int fd = file ? open(file, O_RDONLY) : -1;
	if (fd < 0) _exit(97);
	void *p = mmap(NULL, 2 * sizeof *shared, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED) _exit(98);
	shared = p;
}

int clock_gettime(clockid_t id, struct timespec *ts) {
	int real = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE;
	int64_t ns = shared && real ? shared[0] : 0;
	if (ns == 0) {
		if (syscall(SYS_clock_gettime, id, ts)) return -1;
		if (!shared || id != CLOCK_MONOTONIC) return 0;
		ns = ts->tv_sec * INT64_C(1000000000) + ts->tv_nsec + shared[1] * 2000000;
	}
	ts->tv_sec = ns / 1000000000;
	ts->tv_nsec = ns % 1000000000;
	return 0;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz) {
	struct timespec ts;
	(void)tz;
	if (clock_gettime(CLOCK_REALTIME, &ts)) return -1;
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *t) {
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	if (t) *t = ts.tv_sec;
	return ts.tv_sec;
}

/* A server that does not find out about its processor asks the system for the monotonic clock. */
FILE *fopen(const char *restrict path, const char *restrict mode) {
	static FILE *(*next)(const char *, const char *);
	if (!strcmp(path, "/proc/cpuinfo")) return NULL;
	if (!next) next = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen");
	return next(path, mode);
}

FILE *fopen64(const char *restrict path, const char *restrict mode) { return fopen(path, mode); }
