/* The floor under every OCI runtime: the system calls that `run` of a container cannot do without, and nothing else.
 * Groups in every hierarchy, one clone into new namespaces, joined groups, a root of its own with /proc, one exec, the
 * end waited for, groups removed. No configuration is read, nothing is checked, nothing is confined.
 *
 *   floor ROOTFS NAME PROGRAM
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/sched.h>
#include <unistd.h>

#define MAX_GROUPS 32
static char groups[MAX_GROUPS][256];
static int count;

static void fail(const char *what) {
    perror(what);
    exit(125);
}

static void make_groups(const char *name) {
    DIR *top = opendir("/sys/fs/cgroup");
    struct dirent *entry;
    if (!top) fail("/sys/fs/cgroup");
    while ((entry = readdir(top)) && count < MAX_GROUPS) {
        /* Directories only: the links are other names of the same hierarchies. */
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.' || strcmp(entry->d_name, "unified") == 0) continue;
        snprintf(groups[count], sizeof groups[count], "/sys/fs/cgroup/%s/%s", entry->d_name, name);
        if (mkdir(groups[count], 0755) == 0) count++;
    }
    closedir(top);
}

/* A cpuset takes no process before it has processors and nodes. */
static int enter(const char *group) {
    static const char *inherited[] = {"cpuset.cpus", "cpuset.mems"};
    char path[512], value[256];
    for (int i = 0; strstr(group, "/cpuset/") && i < 2; i++) {
        snprintf(path, sizeof path, "%s/../%s", group, inherited[i]);
        int from = open(path, O_RDONLY);
        ssize_t length = read(from, value, sizeof value);
        close(from);
        snprintf(path, sizeof path, "%s/%s", group, inherited[i]);
        int to = open(path, O_WRONLY);
        if (length > 0 && write(to, value, length) != length) return -1;
        close(to);
    }
    snprintf(path, sizeof path, "%s/cgroup.procs", group);
    int procs = open(path, O_WRONLY);
    int written = write(procs, "0", 1);
    close(procs);
    return written == 1 ? 0 : -1;
}

static int child(const char *rootfs, char *program) {
    char *arguments[] = {program, NULL}, *environment[] = {"PATH=/bin", NULL};
    for (int i = 0; i < count; i++)
        if (enter(groups[i]) != 0) fail(groups[i]);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) fail("private");
    if (mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL)) fail("bind");
    if (chdir(rootfs)) fail("chdir");
    mkdir("proc", 0755);
    if (mount("proc", "proc", "proc", 0, NULL)) fail("proc");
    if (syscall(SYS_pivot_root, ".", ".")) fail("pivot_root");
    if (umount2(".", MNT_DETACH)) fail("umount");
    if (chdir("/")) fail("chdir");
    execve(program, arguments, environment);
    fail(program);
    return 125;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    make_groups(argv[2]);
    struct clone_args how = {.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP,
                             .exit_signal = SIGCHLD};
    pid_t pid = syscall(SYS_clone3, &how, sizeof how);
    if (pid < 0) fail("clone3");
    if (pid == 0) return child(argv[1], argv[3]);
    int status;
    if (waitpid(pid, &status, 0) != pid) fail("waitpid");
    for (int i = 0; i < count; i++) rmdir(groups[i]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
