//! Files beside others: what is extended, included, read as variables or as texts; and what only its owner allows.

use super::*;
use crate::docker::MountSource;
use std::path::PathBuf;

struct Folder(tempfile::TempDir);

impl Folder {
    fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// What `compose.yaml` gives, with these variables.
    fn read(&self, variables: &[(&str, &str)]) -> Result<Spec, Error> {
        let variables: HashMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let file = self.path("compose.yaml");
        let origin = Origin { file: file.clone(), base: Some(self.path("")), variables: variables.clone() };
        spec::resolve("s", &load(&std::fs::read_to_string(&file).unwrap(), &origin)?, &file, &variables)
    }

    fn refused(&self) -> String {
        let folder = format!("{}/", self.0.path().display());
        self.read(&[]).unwrap_err().to_string().replace(&folder, "")
    }
}

fn names(spec: &Spec) -> Vec<&str> {
    spec.services.iter().map(|service| &*service.name).collect()
}

#[test]
fn a_service_is_like_another_and_says_what_differs() {
    let folder = Folder::with(&[
        (
            "compose.yaml",
            "services:
  a:
    extends: {file: common/base.yaml, service: base}
    command: own
    environment: {A: own}
    ports: [\"1:1\"]
    volumes: [\"./own:/data\"]
  b:
    extends: a
    image: other
",
        ),
        (
            "common/base.yaml",
            "services:
  base:
    extends: root
    environment: {A: base, B: base}
    ports: [\"2:2\"]
    env_file: base.env
    volumes: [\"./base:/data\", \"./logs:/logs\"]
  root:
    image: common
    command: [root]
    restart: always
    init: true
",
        ),
        ("common/base.env", "B=file\nC=file\n"),
    ]);
    let spec = folder.read(&[]).unwrap();
    let [a, b] = &spec.services[..] else { panic!("{:?}", names(&spec)) };
    let one = &a.container;
    assert_eq!((one.image.as_str(), one.command.as_deref()), ("common", Some(&["own".to_owned()][..])));
    assert_eq!(
        serde_json::to_value(&one.environment).unwrap(),
        serde_json::json!({"A": "own", "B": "base", "C": "file"})
    );
    assert_eq!(one.ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0.0.0.0:2->2", "0.0.0.0:1->1"]);
    assert!(one.init && one.restart == crate::docker::Restart::Always);
    let mounted: Vec<(PathBuf, &str)> = one
        .mounts
        .iter()
        .map(|mount| match &mount.source {
            MountSource::Bind(path) => (path.clone(), mount.target.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    // Paths are relative to the file that says them, and two mounts at one place are one.
    assert_eq!(mounted, [(folder.path("common/logs"), "/logs"), (folder.path("own"), "/data")]);
    assert_eq!((b.container.image.as_str(), &b.container.mounts), ("other", &one.mounts));
}

#[test]
fn circles_and_gaps_are_told() {
    let check = |files: &[(&str, &str)], expected: &str| {
        let told = Folder::with(files).refused();
        assert!(told.starts_with(expected), "{told:?} should start with {expected:?}");
    };
    check(
        &[("compose.yaml", "services:\n  a: {extends: b}\n  b:\n    extends: a\n")],
        "compose.yaml:4: the service b extends itself",
    );
    check(&[("compose.yaml", "services: {a: {extends: b}}")], "compose.yaml: a service extends b, which is not");
    let other = "services: {a: {extends: {file: compose.yaml, service: a}}}";
    check(
        &[("compose.yaml", "services: {a: {extends: {file: b.yaml, service: a}}}"), ("b.yaml", other)],
        "compose.yaml: the file includes or extends itself",
    );
    check(&[("compose.yaml", "include: [compose.yaml]")], "compose.yaml: the file includes or extends itself");
    check(&[("compose.yaml", "include:\n  - gone.yaml")], "gone.yaml: cannot be read");
    let one = "services: {a: {image: x}}";
    check(
        &[("compose.yaml", "include: [b.yaml]\nservices: {a: {image: y}}"), ("b.yaml", one)],
        "compose.yaml:1: the service a is in the file that is included, too",
    );
    check(&[("compose.yaml", "include: [b.yaml]"), ("b.yaml", "services: {a: {imag: x}}")], "b.yaml:1: `imag` is not");
    check(&[("compose.yaml", "services: {a: {image: x, profiles: [debug]}}")], "compose.yaml: no service runs");
}

#[test]
fn included_files_have_their_own_folder_and_variables() {
    let folder = Folder::with(&[
        ("compose.yaml", "include: [sub/db.yaml]\nservices: {web: {image: web, depends_on: [db]}}"),
        (
            "sub/db.yaml",
            "services: {db: {image: \"db:${TAG}-${OS}\", volumes: [\"./d:/d\", \"data:/v\"]}}\nvolumes: {data: }",
        ),
        ("sub/.env", "TAG=inner\nOS=debian\n"),
    ]);
    let spec = folder.read(&[("TAG", "outer")]).unwrap();
    assert_eq!(names(&spec), ["db", "web"]);
    let db = &spec.services[0].container;
    assert_eq!(db.image, "db:outer-debian", "what the including file says counts more");
    assert_eq!(db.mounts[0].source, MountSource::Bind(folder.path("sub/d")));
    assert!(spec.volumes.contains_key("sovereign.s.data"));
}

#[test]
fn services_run_on_their_occasions() {
    let text = "services: {a: {image: x, depends_on: {b: {required: false}}}, b: {image: y, profiles: [debug, test]}}";
    let folder = Folder::with(&[("compose.yaml", text)]);
    let check = |profiles: &[(&str, &str)], expected: &[&str]| {
        assert_eq!(names(&folder.read(profiles).unwrap()), expected, "{profiles:?}");
    };
    check(&[], &["a"]);
    check(&[("COMPOSE_PROFILES", "test,more")], &["b", "a"]);
    check(&[("COMPOSE_PROFILES", "*")], &["b", "a"]);
}

#[test]
fn secrets_and_configs_are_files() {
    let folder = Folder::with(&[(
        "compose.yaml",
        "services:
  a:
    image: x
    secrets: [key, {source: word, target: password}]
    configs: [{source: page, target: /etc/page}]
secrets:
  key: {file: ./key.txt}
  word: {environment: WORD}
configs:
  page: {content: \"<${WHO}>\"}
",
    )]);
    let spec = folder.read(&[("WORD", "hush"), ("WHO", "me")]).unwrap();
    let text = |text: &str| MountSource::Text(crate::docker::Text(text.into()));
    let mounts: Vec<_> =
        spec.services[0].container.mounts.iter().map(|mount| (mount.target.as_str(), mount.source.clone())).collect();
    let expected = [
        ("/run/secrets/key", MountSource::Bind(folder.path("key.txt"))),
        ("/run/secrets/password", text("hush")),
        ("/etc/page", text("<me>")),
    ];
    assert_eq!(mounts, expected);
    assert!(!format!("{spec:?}").contains("hush"), "a secret is shown");
    assert!(folder.refused().starts_with("compose.yaml:4: the secret word: the variable WORD is not set"));
    // Another secret makes another container.
    let other = folder.read(&[("WORD", "other"), ("WHO", "me")]).unwrap();
    assert_ne!(spec.services[0].config, other.services[0].config);
}

#[test]
fn what_opens_the_machine_needs_its_owners_word() {
    let read = |key: &str, allow: &str| {
        super::read(&format!("services: {{a: {{image: x, {key}, x-sovereign: {{allow: [{allow}]}}}}}}"))
    };
    for (key, permit) in [
        ("privileged: true", "privileged"),
        ("cap_add: [SYS_ADMIN]", "privileged"),
        ("cap_add: [CHOWN, cap_sys_module]", "privileged"),
        ("network_mode: host", "host-network"),
        ("pid: host", "host-pid"),
        ("ipc: host", "host-ipc"),
        ("devices: [/dev/dri]", "devices"),
        ("security_opt: [\"seccomp:unconfined\"]", "unconfined"),
        ("volumes: [\"/var/run/docker.sock:/s:ro\"]", "docker-socket"),
        ("volumes: [\"/run:/r\"]", "docker-socket"),
        ("volumes: [\"/srv/../var/run:/r\"]", "docker-socket"),
        ("volumes: [\"/:/host:ro\"]", "root-mount"),
        ("volumes: [\"./..:/host\"]", "root-mount"),
    ] {
        let error = read(key, "").unwrap_err().to_string();
        assert!(error.contains(&format!("allow: [{permit}]")), "{key}: {error}");
        let spec = read(key, permit).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_eq!(spec.warnings.len(), 1, "{key}: {:?}", spec.warnings);
    }
    assert!(read("privileged: false", "privileged").unwrap().warnings.is_empty(), "what is not used is no warning");
    assert!(read("volumes: [\"/srv/data:/d\"]", "").is_ok());
    assert!(read("cap_add: [NET_ADMIN, CHOWN]", "").is_ok());
}

#[test]
fn cards_are_asked_for_by_name_and_by_environment() {
    let check = |text: &str, cards: Option<Cards>| {
        let spec = super::read(&format!("services: {{a: {{image: x, {text}}}}}")).unwrap();
        assert_eq!(spec.services[0].container.gpu.as_ref().map(|gpu| gpu.cards.clone()), cards, "{text}");
    };
    let these = |id: &str| Some(Cards::These(vec![id.into()]));
    check("devices: [\"nvidia.com/gpu=all\"]", Some(Cards::All));
    check("devices: [\"nvidia.com/gpu=GPU-1\"]", these("GPU-1"));
    check("runtime: nvidia, environment: {NVIDIA_VISIBLE_DEVICES: all}", Some(Cards::All));
    check(
        "runtime: nvidia, environment: [NVIDIA_VISIBLE_DEVICES=0, \"NVIDIA_DRIVER_CAPABILITIES=compute,video\"]",
        these("0"),
    );
    check("runtime: nvidia, environment: {NVIDIA_VISIBLE_DEVICES: none}", None);
    check("runtime: nvidia", Some(Cards::All));
    check("runtime: runc", None);
}
