// A program that runs with this library sees a processor without AVX-512 and AMX, its threads and children, too.
// The kernel hands every CPUID instruction to the handler below (CPUID faulting: Linux on Intel's processors).
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

// By leaf 7 of CPUID: every extension of AVX-512, then AMX.
static const unsigned EBX = BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31);
static const unsigned ECX = BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14);
static const unsigned EDX = BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25);
// By its subleaf 1: AVX512-BF16 and AMX-FP16.
static const unsigned EAX_1 = BIT(5) | BIT(21);

static int real_sigaction(int signal_number, const struct sigaction *action, struct sigaction *before) {
  int (*real)(int, const struct sigaction *, struct sigaction *) = dlsym(RTLD_NEXT, "sigaction");
  return real(signal_number, action, before);
}

static void answer(int signal_number, siginfo_t *information, void *context) {
  (void)information;
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *code = (const unsigned char *)registers[REG_RIP];
  if (code == NULL || code[0] != 0x0f || code[1] != 0xa2) {
    struct sigaction usual = {.sa_handler = SIG_DFL};
    real_sigaction(signal_number, &usual, NULL); // a fault of the program's own: it faults again, and ends
    return;
  }
  unsigned leaf = (unsigned)registers[REG_RAX], subleaf = (unsigned)registers[REG_RCX], a, b, c, d;
  syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
  __cpuid_count(leaf, subleaf, a, b, c, d);
  syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
  if (leaf == 7 && subleaf == 0) {
    b &= ~EBX;
    c &= ~ECX;
    d &= ~EDX;
  }
  if (leaf == 7 && subleaf == 1) {
    a &= ~EAX_1;
  }
  registers[REG_RAX] = a;
  registers[REG_RBX] = b;
  registers[REG_RCX] = c;
  registers[REG_RDX] = d;
  registers[REG_RIP] += 2;
}

// A program that wants to hear of its faults (compilers do) is not told.
int sigaction(int signal_number, const struct sigaction *action, struct sigaction *before) {
  return real_sigaction(signal_number, signal_number == SIGSEGV ? NULL : action, before);
}

void (*signal(int signal_number, void (*handler)(int)))(int) {
  void (*(*real)(int, void (*)(int)))(int) = dlsym(RTLD_NEXT, "signal");
  return signal_number == SIGSEGV ? SIG_DFL : real(signal_number, handler);
}

__attribute__((constructor)) static void begin(void) {
  struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART | SA_ONSTACK};
  if (real_sigaction(SIGSEGV, &action, NULL) != 0 || syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0) != 0) {
    perror("CPUID cannot be answered for this processor");
    exit(1);
  }
}
