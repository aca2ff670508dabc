/* SPDX-License-Identifier: Apache-2.0
 * tests/run/signal_at.c: runs a command and sends it a signal when a file has so many lines.
 *
 *   signal_at SIGNAL LINES[+MILLISECONDS] FILE COMMAND ARGUMENT...
 *
 * At least one of the lines must be the command's own. With LINES 0 the signal waits, blocked,
 * before the command begins. Exit code: the command's; 128 + number if a signal ended it; 125 if it
 * ended before its time had come.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int lines_of(const char *path)
{
    FILE *f = fopen(path, "r");
    int n = 0;
    for (int c; f && (c = getc(f)) != EOF;) n += c == '\n';
    if (f) fclose(f);
    return n;
}

static void become(char **command, int pending)
{
    sigset_t set;
    sigemptyset(&set);
    if (pending) {
        sigaddset(&set, pending);
        sigprocmask(SIG_BLOCK, &set, NULL);
        raise(pending);
    }
    execv(command[0], command);
    perror(command[0]);
    _exit(127);
}

static void wait_for(long milliseconds)
{
    const struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

int main(int argc, char **argv)
{
    if (argc < 5) return 127;
    char *end;
    int number = atoi(argv[1]), lines = (int)strtol(argv[2], &end, 10);
    int status = 0, sent = lines == 0, before = lines_of(argv[3]);
    if (lines <= before) lines = before + 1;
    pid_t child = fork();
    if (child < 0) return 127;
    if (child == 0) become(argv + 4, sent ? number : 0);
    while (waitpid(child, &status, sent ? 0 : WNOHANG) != child) {
        const struct timespec moment = {0, 200000};
        if (lines_of(argv[3]) >= lines) {
            wait_for(*end == '+' ? atol(end + 1) : 0);
            kill(child, number);
            sent = 1;
        } else {
            nanosleep(&moment, NULL);
        }
    }
    if (!sent) return 125;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
