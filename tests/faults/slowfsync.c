/* LD_PRELOAD: a disk that is slow to keep what it is given. Milliseconds are read from the file named by
   SLOWFSYNC_FILE at every call; 0 or no file: as fast as it is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void be_slow(void)
{
    const char *name = getenv("SLOWFSYNC_FILE");
    FILE *file = name ? fopen(name, "r") : NULL;
    long ms = 0;
    if (file) {
        if (fscanf(file, "%ld", &ms) != 1) ms = 0;
        fclose(file);
    }
    if (ms > 0) {
        struct timespec left = {ms / 1000, (ms % 1000) * 1000000L};
        while (nanosleep(&left, &left) == -1) ;
    }
}

int fsync(int fd)
{
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    be_slow();
    return real(fd);
}

int fdatasync(int fd)
{
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    be_slow();
    return real(fd);
}
