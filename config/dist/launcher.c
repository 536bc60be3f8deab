/*
 * Starts a command of a self-contained tree, wherever the tree is:
 *
 *     TREE/bin/NAME              a link to this program for each command
 *     TREE/libexec/launcher      this program, linked statically
 *     TREE/libexec/python3       a link to it, as sys.executable: runs the bare interpreter
 *     TREE/libexec/python3.11    the interpreter
 *     TREE/libexec/start/NAME    the first lines of Python of a command
 *     TREE/lib/native            the libraries, and the loader under the name of each command
 *
 * The loader gets the directory of the libraries as an argument. The environment stays as it is, so programs of the
 * host that the command starts use the host's libraries. The loader's name is that of the command, because the kernel
 * shows it as the process's name.
 */

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#ifndef PYTHON
#error "PYTHON is the interpreter's file name, such as python3.11"
#endif

enum { NOT_EXECUTABLE = 126, NOT_FOUND = 127, OWN_ARGUMENTS = 13 };

static const char *command = "amistream";

static void fail(int status, const char *what, const char *why)
{
    fprintf(stderr, "%s: cannot start %s: %s\n", command, what, why);
    exit(status);
}

static char *joined(const char *root, const char *directory, const char *name)
{
    char *path;
    if (asprintf(&path, "%s/%s/%s", root, directory, name) < 0)
        fail(NOT_EXECUTABLE, name, "out of memory");
    return path;
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The directory above that of this program, links followed. Without /proc the path of the call is taken. */
static char *find_root(void)
{
    static char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    const char *called = (const char *)getauxval(AT_EXECFN);

    if (length > 0)
        path[length] = '\0';
    else if (!called || !realpath(called, path))
        fail(NOT_FOUND, "itself", "its path is not known, because /proc is not mounted");
    for (int level = 0; level < 2; level++) {
        char *slash = strrchr(path, '/');
        if (!slash)
            fail(NOT_FOUND, path, "it is not in the directory libexec of its tree");
        *slash = '\0';
    }
    if (strpbrk(path, ":;$"))
        fail(NOT_EXECUTABLE, path, "the loader takes no path with one of the characters : ; $; move the tree");
    return path;
}

int main(int argc, char **argv)
{
    const char *called = (const char *)getauxval(AT_EXECFN);
    char *root = find_root(), *start = NULL, *loader;
    char **arguments = calloc((size_t)argc + OWN_ARGUMENTS, sizeof *arguments);
    int count = 0;

    if (!arguments)
        fail(NOT_EXECUTABLE, root, "out of memory");
    if (argc > 0)
        command = last_part(argv[0]);
    /* A caller may give another word as the command's name: then the name of the called file counts. */
    loader = joined(root, "lib/native", command);
    if (access(loader, F_OK) && called) {
        free(loader);
        command = last_part(called);
        loader = joined(root, "lib/native", command);
    }
    if (strcmp(command, "python3")) {
        start = joined(root, "libexec/start", command);
        if (access(start, R_OK))
            fail(NOT_FOUND, start, strerror(errno));
    }

    arguments[count++] = loader;
    arguments[count++] = "--inhibit-cache";
    arguments[count++] = "--library-path";
    arguments[count++] = joined(root, "lib", "native");
    arguments[count++] = "--argv0";
    arguments[count++] = joined(root, "libexec", "python3");
    arguments[count++] = joined(root, "libexec", PYTHON);
    /* Isolated from variables and directories of the user, no look for other packages, no compiled files written. */
    arguments[count++] = "-ISB";
    arguments[count++] = "-X";
    arguments[count++] = "utf8";
    if (start)
        arguments[count++] = start;
    for (int at = 1; at < argc; at++)
        arguments[count++] = argv[at];
    execv(loader, arguments);
    fail(errno == ENOENT ? NOT_FOUND : NOT_EXECUTABLE, loader, strerror(errno));
}
