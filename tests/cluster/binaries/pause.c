/*
 * pause: the program of a pod's sandbox.
 *
 * It does nothing but stay, so that the pod's namespaces do. In a pod whose containers share a process namespace it is
 * process 1, so it also buries what other containers orphan. SIGTERM and SIGINT end it: the kubelet would otherwise
 * wait out the grace period of every pod.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

static void bury(void)
{
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
}

int main(void)
{
    sigset_t awaited;
    sigemptyset(&awaited);
    sigaddset(&awaited, SIGCHLD);
    sigaddset(&awaited, SIGTERM);
    sigaddset(&awaited, SIGINT);
    /* Blocked signals wait: none is lost between two calls of sigwait. */
    if (sigprocmask(SIG_BLOCK, &awaited, NULL) != 0) {
        return EXIT_FAILURE;
    }
    for (;;) {
        bury();
        int signal_number = 0;
        if (sigwait(&awaited, &signal_number) != 0) {
            return EXIT_FAILURE;
        }
        if (signal_number != SIGCHLD) {
            return EXIT_SUCCESS;
        }
    }
}
