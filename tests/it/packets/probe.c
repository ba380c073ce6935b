/* Tries to get out of a container, by every way that there is, and tells of each what came of it. */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/route.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void end(int signal) { (void)signal; _exit(0); }

/* An address of either protocol, by its text. */
static socklen_t address(struct sockaddr_storage *to, const char *text, int port) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)to;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)to;
    memset(to, 0, sizeof *to);
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET, v4->sin_port = htons(port);
        return sizeof *v4;
    }
    inet_pton(AF_INET6, text, &v6->sin6_addr);
    v6->sin6_family = AF_INET6, v6->sin6_port = htons(port);
    return sizeof *v6;
}

/* Waits for an answer; what came of it, in a word. */
static const char *answered(int socket, short events, int milliseconds) {
    struct pollfd one = {.fd = socket, .events = events};
    int error = 0;
    socklen_t size = sizeof error;
    if (poll(&one, 1, milliseconds) == 0) return "silence";
    getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size);
    return error ? strerror(error) : "AN ANSWER";
}

static void tcp(const char *what, const char *to, int port) {
    struct sockaddr_storage there;
    socklen_t size = address(&there, to, port);
    int s = socket(there.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    const char *came = "AN ANSWER";
    if (s < 0 || (connect(s, (struct sockaddr *)&there, size) && errno != EINPROGRESS)) came = strerror(errno);
    else came = answered(s, POLLOUT, 700);
    printf("%s: %s\n", what, came);
    close(s);
}

static void datagram(const char *what, int protocol, const char *to, int port, const void *bytes, size_t length) {
    struct sockaddr_storage there;
    socklen_t size = address(&there, to, port);
    int one = 1, s = socket(there.ss_family, protocol < 0 ? SOCK_RAW : SOCK_DGRAM, protocol < 0 ? -protocol : protocol);
    const char *came;
    if (s >= 0) setsockopt(s, SOL_SOCKET, SO_BROADCAST, &one, sizeof one);
    if (s < 0 || sendto(s, bytes, length, 0, (struct sockaddr *)&there, size) < 0) came = strerror(errno);
    else came = answered(s, POLLIN, 700);
    printf("%s: %s\n", what, came);
    close(s);
}

static size_t question(unsigned char *query, const char *name, int kind) {
    static const unsigned char head[12] = {0x12, 0x34, 1, 0, 0, 1};
    size_t at = 12;
    memcpy(query, head, 12);
    while (*name) {
        size_t length = strcspn(name, ".");
        query[at++] = length;
        memcpy(query + at, name, length);
        at += length, name += length + (name[length] == '.');
    }
    query[at++] = 0, query[at++] = 0, query[at++] = kind, query[at++] = 0, query[at++] = 1;
    return at;
}

static void lookup(const char *what, const char *server, const char *name, int kind) {
    unsigned char query[300];
    datagram(what, 0, server, 53, query, question(query, name, kind));
}

/* This machine's address on the container's network, which is the first one there. */
static const char *gateway(void) {
    static char text[INET_ADDRSTRLEN] = "127.0.0.1";
    struct ifaddrs *all = NULL;
    getifaddrs(&all);
    for (struct ifaddrs *one = all; one; one = one->ifa_next) {
        struct sockaddr_in *own = (struct sockaddr_in *)one->ifa_addr, *mask = (struct sockaddr_in *)one->ifa_netmask;
        if (!own || own->sin_family != AF_INET || !strcmp(one->ifa_name, "lo")) continue;
        struct in_addr first = {(own->sin_addr.s_addr & mask->sin_addr.s_addr) + htonl(1)};
        inet_ntop(AF_INET, &first, text, sizeof text);
    }
    return text;
}

static void everything(const char *v4, const char *v6, const char *names, const char *secret) {
    static const unsigned char ping[8] = {8, 0, 0xf7, 0xff}, ping6[8] = {128};
    char name[300];
    tcp("http", v4, 80);
    tcp("https", v4, 443);
    tcp("tcp", v4, 4444);
    tcp("tcp by ipv6", v6, 443);
    datagram("udp", 0, v4, 9999, secret, strlen(secret));
    datagram("udp by ipv6", 0, v6, 9999, secret, strlen(secret));
    datagram("icmp", IPPROTO_ICMP, v4, 0, ping, sizeof ping);
    datagram("icmp, raw", -IPPROTO_ICMP, v4, 0, ping, sizeof ping);
    datagram("icmp by ipv6", IPPROTO_ICMPV6, v6, 0, ping6, sizeof ping6);
    datagram("broadcast", 0, "255.255.255.255", 9999, secret, strlen(secret));
    datagram("multicast", 0, "224.0.0.251", 5353, secret, strlen(secret));
    tcp("names by tcp", names, 53);
    snprintf(name, sizeof name, "%s.direct.test", secret);
    lookup("names, directly", names, name, 1);
    lookup("names, of this machine", gateway(), name, 1);
    snprintf(name, sizeof name, "%s.tunnel.test", secret);
    lookup("names, by docker", "127.0.0.11", name, 1);
    lookup("names, by docker, ipv6", "127.0.0.11", name, 28);
    lookup("names, by docker, text", "127.0.0.11", name, 16);
}

/* Asks the proxy of the environment for something, and tells its answer's first line and, of a tunnel, whether what is
   sent comes back; of a refusal, why. */
static int proxied(const char *method, const char *target, int told) {
    const char *proxy = getenv("HTTP_PROXY");
    char host[64] = "", answer[2048], *body;
    int port = 0, status = 0;
    size_t had = 0;
    ssize_t n;
    struct sockaddr_storage there;
    if (!proxy || sscanf(proxy, "http://%63[^:]:%d", host, &port) != 2) {
        if (told) printf("%s %s: no proxy\n", method, target);
        return -1;
    }
    socklen_t size = address(&there, host, port);
    int s = socket(there.ss_family, SOCK_STREAM, 0);
    if (s < 0 || connect(s, (struct sockaddr *)&there, size)) {
        if (told) printf("%s %s: %s\n", method, target, strerror(errno));
        close(s);
        return -1;
    }
    dprintf(s, "%s %s HTTP/1.1\r\nHost: %s\r\n\r\n", method, target, target);
    while (had + 1 < sizeof answer && (n = read(s, answer + had, sizeof answer - 1 - had)) > 0) {
        had += n;
        answer[had] = 0;
        if (!strcmp(method, "CONNECT") && !strncmp(answer, "HTTP/1.1 200", 12)) break;
    }
    answer[had] = 0;
    sscanf(answer, "HTTP/1.1 %d", &status);
    body = strstr(answer, "\r\n\r\n");
    if (status == 200 && !strcmp(method, "CONNECT")) {
        char echo[5] = "";
        if (write(s, "ping", 4) == 4 && read(s, echo, 4) == 4 && !strcmp(echo, "ping")) body = "    it comes back";
        else body = "    nothing comes back";
    }
    if (told) printf("%s %s: %d %s\n", method, target, status, body ? body + 4 : "");
    close(s);
    return status;
}

int main(int argc, char **argv) {
    signal(SIGTERM, end);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 2 && !strcmp(argv[1], "wait")) for (;;) pause();
    if (argc == 6 && !strcmp(argv[1], "everything")) {
        /* Where it may, it sees to it that there is a way by this machine. */
        struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
        struct sockaddr_storage by, any;
        address(&by, gateway(), 0), address(&any, "0.0.0.0", 0);
        memcpy(&route.rt_gateway, &by, sizeof route.rt_gateway);
        memcpy(&route.rt_dst, &any, sizeof route.rt_dst), memcpy(&route.rt_genmask, &any, sizeof route.rt_genmask);
        int failed = ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCADDRT, &route);
        printf("a route: %s\n", failed && errno != EEXIST ? strerror(errno) : "it is there");
        everything(argv[2], argv[3], argv[4], argv[5]);
        puts("that was everything");
        return 0;
    }
    if (argc >= 4 && !strcmp(argv[1], "ask")) {
        for (int at = 2; at + 1 < argc; at += 2) proxied(argv[at], argv[at + 1], 1);
        puts("that was everything");
        return 0;
    }
    /* As a program does that tries again and again. */
    if (argc == 5 && !strcmp(argv[1], "storm")) {
        int tries = 0, refused = 0;
        for (time_t end = time(NULL) + atoi(argv[4]); time(NULL) < end; tries++) {
            if (proxied(argv[2], argv[3], tries == 0) != 200) refused++;
            usleep(20000);
        }
        printf("%d tries, %d refused\nthat was everything\n", tries, refused);
        return 0;
    }
    fprintf(stderr, "what is to be done?\n");
    return 2;
}
