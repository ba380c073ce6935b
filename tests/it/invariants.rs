//! The architecture as absences: what ARCHITECTURE.md says must never be, looked for in `src/`.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules from the top down; one may use what stands further down, never what stands beside or above it.
const HEIGHTS: &[&[&str]] = &[
    &["cli"],
    &["daemon"],
    &["web", "gateway", "admin"],
    &["app"],
    &["stacks"],
    &["placement"],
    &["runtime"],
    &["worker", "docker", "bench"],
    &["models"],
    &["egress"],
    &["auth", "gpu"],
    &["db", "state_dir"],
    &["config"],
    &["engine"],
];

/// One source file, without its comments and without the tests at its end.
struct Source {
    /// Relative to `src`.
    path: PathBuf,
    lines: Vec<(usize, String)>,
}

impl Source {
    /// The module below the crate root that the file belongs to.
    fn module(&self) -> String {
        let first = self.path.iter().next().unwrap().to_string_lossy();
        first.trim_end_matches(".rs").to_string()
    }

    fn is_under(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.lines().enumerate().map(|(at, line)| (at + 1, without_comment(line)));
                let lines = code.take_while(|(_, line)| !line.contains("#[cfg(test)]")).collect();
                sources.push(Source { path: path.strip_prefix(&root).unwrap().to_path_buf(), lines });
            }
        }
    }
    assert!(sources.len() > 50, "only {} files were found", sources.len());
    sources
}

/// Cuts a comment off, unless the slashes are those of an address.
fn without_comment(line: &str) -> String {
    let trimmed = line.trim_start();
    if trimmed.starts_with("//") {
        return String::new();
    }
    line.split(" // ").next().unwrap_or_default().to_string()
}

/// Whether `word` stands in `line` by itself, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(is_name)
            && !line[at + word.len()..].chars().next().is_some_and(is_name)
    })
}

/// No line of a file that `concerns` may hold one of these words.
#[track_caller]
fn absent(words: &[&str], concerns: impl Fn(&Source) -> bool, why: &str) {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| concerns(source)) {
        for (at, line) in &source.lines {
            if let Some(word) = words.iter().find(|word| has_word(line, word)) {
                found.push(format!("src/{}:{at}: {word}", source.path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

#[test]
fn egress_is_the_only_door_out() {
    let dialling = [
        "reqwest",
        "hyper_util",
        "TcpStream::connect",
        "UnixStream::connect",
        "TcpSocket",
        "UdpSocket",
        "UnixDatagram",
        "ToSocketAddrs",
        "to_socket_addrs",
        "lookup_host",
        "getaddrinfo",
        "hickory_resolver",
        "tokio_rustls",
        "http1",
    ];
    absent(
        &dialling,
        |source| !source.is_under("egress"),
        "only `egress` makes clients, resolves names and dials sockets",
    );
    // Within it, what leads outside is in one place each: what is resolved was admitted, what is dialled was checked.
    let elsewhere =
        |files: &'static [&str]| move |source: &Source| !files.iter().any(|file| source.path.ends_with(file));
    absent(&["lookup_host", "to_socket_addrs"], elsewhere(&["egress/resolve.rs"]), "only `resolve` resolves");
    absent(&["TcpStream::connect"], elsewhere(&["egress/dial.rs", "egress/mod.rs"]), "only `dial` dials");
    absent(&["reqwest"], elsewhere(&["egress/mod.rs"]), "reqwest, which dials by itself, is for what is ours");
    let programs =
        ["\"ssh\"", "\"sftp\"", "\"scp\"", "\"sshfs\"", "\"curl\"", "\"wget\"", "\"git\"", "\"rsync\"", "\"nc\""];
    absent(&programs, |_| true, "no program that talks to others is started");
}

#[test]
fn docker_is_the_only_user_of_bollard() {
    absent(&["bollard"], |source| !source.is_under("docker"), "what containers may do is decided in `docker`");
    absent(&["\"docker\""], |source| !source.is_under("docker"), "the `docker` program is not asked");
}

#[test]
fn the_engine_knows_nothing_of_the_rest() {
    let foreign =
        ["tokio", "tokio_util", "futures_util", "axum", "tower", "sqlx", "reqwest", "bollard", "clap", "tracing"];
    absent(&foreign, |source| source.is_under("engine"), "the engine is synchronous and stands alone");
}

#[test]
fn dependencies_point_down() {
    let height = |module: &str| HEIGHTS.iter().position(|height| height.contains(&module));
    let mut wrong = Vec::new();
    for source in sources() {
        let module = source.module();
        if module == "lib" || module == "main" {
            continue;
        }
        let Some(mine) = height(&module) else {
            panic!("src/{} belongs to no known height", source.path.display());
        };
        for (at, line) in &source.lines {
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if used != module && height(&used).is_some_and(|theirs| theirs <= mine) {
                    wrong.push(format!("src/{}:{at}: uses {used}", source.path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "a module uses only what stands below it:\n{}", wrong.join("\n"));
}

#[test]
fn the_ledger_is_the_only_door_to_memory() {
    let starting = ["Grant", "StartError"];
    let may = |source: &Source| source.is_under("placement") || source.is_under("runtime");
    absent(&starting, |source| !may(source), "only `placement` starts what holds memory");
    // The worker's own process is the one that a person may start, by the command line.
    let inference = ["engine::model", "Model::load", "engine::Model"];
    let may = |source: &Source| ["engine", "worker", "bench"].iter().any(|folder| source.is_under(folder));
    absent(&inference, |source| !may(source), "weights are loaded in processes of their own");
}

#[test]
fn one_connection_writes() {
    let opening = ["SqlitePool::connect", "SqliteConnectOptions", "SqlitePoolOptions", "SqliteConnection"];
    absent(&opening, |source| !source.is_under("db"), "SQLite files are opened in `db`, each with one writer");
}

#[test]
fn words_are_found_as_words() {
    let check = |line: &str, word: &str, expected| assert_eq!(has_word(line, word), expected, "{word} in {line}");
    check("use reqwest::Client;", "reqwest", true);
    check("let reqwests = 1;", "reqwest", false);
    check("TcpStream::connect(a)", "TcpStream::connect", true);
    check("TcpStream::connected", "TcpStream::connect", false);
    check("", "reqwest", false);
}
