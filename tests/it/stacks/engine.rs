//! A private Docker engine, and a tiny image that is built here: no registry is asked.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The image that [`Engine::start`] makes.
pub const IMAGE: &str = "sovereign-test/hello:1";

/// A server of one file: it greets, echoes, and knows how to check itself, to end, and to fail. By another name it is
/// NVIDIA's tool, as it behaves in a container: until it has lost its card.
const PROGRAM: &str = r#"
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void end(int signal) { (void)signal; _exit(0); }

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "serve";
    if (strstr(argv[0], "nvidia-smi")) {
        if (access("/run/lost", F_OK)) { puts("GPU 0: a card"); return 0; }
        puts("Failed to initialize NVML: Unknown Error");
        return 255;
    }
    if (!strcmp(mode, "lose")) return open("/run/lost", O_CREAT | O_WRONLY, 0600) < 0;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(7777)};
    int one = 1, server = socket(AF_INET, SOCK_STREAM, 0);
    signal(SIGTERM, end);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(mode, "once")) { puts("done"); return 0; }
    if (!strcmp(mode, "fail")) { fputs("it fails\n", stderr); return 3; }
    if (!strcmp(mode, "check")) {
        inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
        return connect(server, (struct sockaddr *)&address, sizeof address) != 0;
    }
    if (!strcmp(mode, "show")) {
        char text[512];
        for (int i = 2; i < argc; i++) {
            int file = open(argv[i], O_RDONLY);
            ssize_t n = read(file, text, sizeof text);
            if (n < 0) { perror(argv[i]); return 1; }
            printf("%s: %.*s\n", argv[i], (int)n, text);
        }
        return 0;
    }
    if (!strcmp(mode, "wait")) { for (;;) pause(); }
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(server, (struct sockaddr *)&address, sizeof address) || listen(server, 16)) return 1;
    printf("%s from a container\n", getenv("GREETING"));
    for (;;) {
        char buffer[512];
        ssize_t n;
        int client = accept(server, NULL, NULL);
        if (client < 0) continue;
        dprintf(client, "%s\n", getenv("GREETING"));
        while ((n = read(client, buffer, sizeof buffer)) > 0) if (write(client, buffer, n) != n) break;
        close(client);
    }
}
"#;

/// Stands in for NVIDIA's container toolkit, which Docker calls for containers with cards: writes down what is asked.
const HOOK: &str = r#"#!/bin/sh
bundle=$(sed -n 's/.*"bundle":"\([^"]*\)".*/\1/p')
grep -o '"NVIDIA_[A-Z_]*=[^"]*"' "$bundle/config.json" | tr -d '"' | sort >> "$(dirname "$0")/asked"
"#;

/// `dockerd` over folders and a socket of its own. It ends with this, and so does what it runs.
pub struct Engine {
    folder: TempDir,
    /// Engines that run side by side take their networks' addresses from different ranges.
    number: u8,
    /// Says where it runs, and what of the network is its own.
    place: Box<dyn Fn(&mut Command) + Send + Sync>,
    process: Option<Child>,
}

impl Engine {
    /// Starts an engine that knows [`IMAGE`]. Panics with the reason where none can run: these tests are not skipped.
    pub fn start() -> Self {
        Self::at(|dockerd| {
            // Nothing of this machine's is touched: neither its firewall, where another engine may keep its rules, nor
            // the default bridge. Internal networks work without.
            dockerd.args(["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none"]);
        })
    }

    /// The same, at a place that a command is taken to.
    pub fn at(place: impl Fn(&mut Command) + Send + Sync + 'static) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests run a Docker engine of their own, and need root");
        static STARTED: AtomicU8 = AtomicU8::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::tempdir().unwrap();
        let mut engine = Self { folder, number, place: Box::new(place), process: None };
        let hook = engine.path("hooks/nvidia-container-runtime-hook");
        std::fs::create_dir(engine.path("hooks")).unwrap();
        std::fs::write(&hook, HOOK).unwrap();
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
        engine.resume();
        engine.import();
        engine
    }

    /// Where the engine listens.
    pub fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// Starts the engine again over its old folders.
    pub fn resume(&mut self) {
        let log = File::options().append(true).create(true).open(self.path("dockerd.log")).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}:/usr/sbin:/sbin", self.path("hooks").display());
        let mut dockerd = Command::new("dockerd");
        dockerd
            .arg(format!("--host={}", self.host()))
            .arg(format!("--data-root={}", self.path("data").display()))
            .arg(format!("--exec-root={}", self.path("exec").display()))
            .arg(format!("--pidfile={}", self.path("pid").display()))
            .arg(format!("--default-address-pool=base=10.213.{}.0/24,size=28", self.number))
            .arg("--storage-driver=vfs")
            .env("PATH", path)
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        (self.place)(&mut dockerd);
        let process = dockerd.spawn().unwrap_or_else(|error| {
            panic!("dockerd cannot be started ({error}); `make test-tools` installs Docker's engine")
        });
        self.process = Some(process);
        let deadline = Instant::now() + Duration::from_secs(120);
        while !self.try_docker(&["version"]).status.success() {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            let late = Instant::now() > deadline;
            assert!(ended.is_none() && !late, "dockerd does not answer ({ended:?}):\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the engine. What ran in it ends too.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            if let Some(pid) = Pid::from_raw(process.id() as i32) {
                let _ = kill_process(pid, Signal::TERM);
            }
            process.wait().unwrap();
        }
    }

    /// What `docker` prints, asked of this engine.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "docker {arguments:?}: {err}\n{}", self.log());
        out.trim().to_owned()
    }

    /// Kills a container's process, as a crash would.
    pub fn crash(&self, container: &str) {
        let pid = self.docker(&["inspect", "--format", "{{.State.Pid}}", container]);
        kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    }

    /// What NVIDIA's container toolkit was asked for so far, a line each.
    pub fn asked_for_cards(&self) -> Vec<String> {
        let asked = std::fs::read_to_string(self.path("hooks/asked")).unwrap_or_default();
        asked.lines().map(str::to_owned).collect()
    }

    /// The number of a container's process.
    pub fn pid(&self, container: &str) -> u32 {
        self.docker(&["inspect", "--format", "{{.State.Pid}}", container]).parse().unwrap()
    }

    /// What `docker` says, asked of this engine.
    pub fn try_docker(&self, arguments: &[&str]) -> Output {
        let host = self.host();
        let docker = Command::new("docker").args(["--host", &host]).args(arguments).output();
        docker.unwrap_or_else(|error| panic!("docker cannot be run ({error}); `make test-tools` installs it"))
    }

    /// The image's only layer: a tar archive with the program.
    pub fn layer(&self) -> PathBuf {
        self.path("image.tar")
    }

    fn import(&self) {
        let root = self.path("image");
        std::fs::create_dir(&root).unwrap();
        compile(PROGRAM, &root.join("hello"));
        std::fs::create_dir(root.join("bin")).unwrap();
        std::fs::copy(root.join("hello"), root.join("bin/nvidia-smi")).unwrap();
        pack(&root, &["hello", "bin"], &self.layer());
        self.load(&self.layer(), "/hello", IMAGE);
    }

    /// Makes an image of one C program and returns its only layer.
    pub fn make(&self, program: &str, image: &str) -> PathBuf {
        let root = self.path("made");
        std::fs::create_dir_all(&root).unwrap();
        compile(program, &root.join("program"));
        let layer = self.path("made.tar");
        pack(&root, &["program"], &layer);
        self.load(&layer, "/program", image);
        layer
    }

    fn load(&self, layer: &Path, program: &str, image: &str) {
        let entry = format!("ENTRYPOINT [\"{program}\"]");
        self.docker(&["import", "--change", &entry, &layer.display().to_string(), image]);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.path("dockerd.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Engine {
    /// What a failed test left is removed while there is an engine that can: its bridges would outlive it.
    fn drop(&mut self) {
        if self.process.is_some() {
            let left = self.try_docker(&["ps", "--all", "--quiet"]).stdout;
            for container in String::from_utf8_lossy(&left).split_whitespace() {
                self.try_docker(&["rm", "--force", "--volumes", container]);
            }
            self.try_docker(&["network", "prune", "--force"]);
        }
        self.stop();
    }
}

fn pack(root: &Path, files: &[&str], to: &Path) {
    let tar = Command::new("tar").arg("-cf").arg(to).arg("-C").arg(root).args(files).status().unwrap();
    assert!(tar.success());
}

fn compile(program: &str, to: &Path) {
    let source = to.with_extension("c");
    std::fs::write(&source, program).unwrap();
    let cc = Command::new("cc").args(["-static", "-Os", "-o"]).arg(to).arg(&source).stdin(Stdio::null()).output();
    let cc = cc.unwrap_or_else(|error| panic!("no C compiler ({error}); `make tools` installs one"));
    assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
}
