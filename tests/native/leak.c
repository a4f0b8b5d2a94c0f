/* A program that loses one descriptor and closes all others: prints its number on the first byte of
 * stdin's, works, says "done" and lives until stdin ends. Both functions have frames of their own.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define TURNS 50

/* libc's wrapper keeps no frame: the function that calls it is not in the stack, its caller is. */
static __attribute__((noinline)) int open_socket(void) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  __asm__ volatile("" ::: "memory"); /* no tail call */
  return fd;
}

static __attribute__((noinline)) int forget_a_socket(void) {
  int fd = open_socket();
  __asm__ volatile("" ::: "memory");
  return fd;
}

static __attribute__((noinline)) void use_and_close(void) {
  int fd = open_socket();
  int copy = dup(fd);
  int file = open("/dev/null", O_RDONLY);
  dup2(copy, file);
  int other = fcntl(fd, F_DUPFD_CLOEXEC, 100);
  close(other);
  close(file);
  close(copy);
  close(fd);
}

int main(void) {
  char byte;
  if (read(0, &byte, 1) != 1) return 1;
  for (int i = 0; i < TURNS; i++) {
    use_and_close();
    if (i == TURNS / 2 && forget_a_socket() < 0) return 1;
  }
  puts("done");
  fflush(stdout);
  while (read(0, &byte, 1) > 0) {
  }
  return 0;
}
