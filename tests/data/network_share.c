/* Preloaded (LD_PRELOAD), this library makes calls fail as file systems of network shares and FUSE do. The environment
   variable LACKS names the calls, and PLACE is part of the paths at which they fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int lacks(const char *call, const char *path) {
  const char *calls = getenv("LACKS"), *place = getenv("PLACE");
  return calls && place && strstr(calls, call) && strstr(path, place);
}

static const char *path_of(int file) {
  static __thread char path[4096];
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t size = readlink(link, path, sizeof path - 1);
  path[size < 0 ? 0 : size] = 0;
  return path;
}

static int fail(int number) {
  errno = number;
  return -1;
}

int chmod(const char *path, mode_t mode) {
  int (*real)(const char *, mode_t) = dlsym(RTLD_NEXT, "chmod");
  return lacks("chmod", path) ? fail(EPERM) : real(path, mode);
}

int fchmodat(int folder, const char *path, mode_t mode, int flags) {
  int (*real)(int, const char *, mode_t, int) = dlsym(RTLD_NEXT, "fchmodat");
  return lacks("chmod", path) ? fail(EPERM) : real(folder, path, mode, flags);
}

int fsync(int file) {
  int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
  struct stat status;
  int is_folder = !fstat(file, &status) && S_ISDIR(status.st_mode);
  int is_read_only = (fcntl(file, F_GETFL) & O_ACCMODE) == O_RDONLY;
  if (is_folder && lacks("fsync_folder", path_of(file))) return fail(EINVAL);
  if (is_read_only && lacks("fsync_read_only", path_of(file))) return fail(EBADF);
  return real(file);
}

int flock(int file, int operation) {
  int (*real)(int, int) = dlsym(RTLD_NEXT, "flock");
  return lacks("flock", path_of(file)) ? fail(ENOLCK) : real(file, operation);
}
