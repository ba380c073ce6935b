//! Compose files as people have them: what docker-compose 1.29 makes of those that it understands
//! (`tests/parity/compose.py`), and what the specification says of the others.

use super::*;
use crate::docker::MountSource;
use crate::stacks::spec::ServiceSpec;
use serde_json::{Value, json};
use std::path::PathBuf;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/compose")
}

fn read(name: &str) -> Result<Spec, Error> {
    let file = folder().join(format!("{name}.yaml"));
    let origin = Origin { file: file.clone(), base: Some(folder()), variables: HashMap::new() };
    let text = std::fs::read_to_string(&file).unwrap();
    spec::resolve(name, &load(&text, &origin)?, Path::new(name), &HashMap::new())
}

/// Files that are refused, and how the refusal begins.
const REFUSED: [(&str, &str); 5] = [
    ("flask-app", "flask-app.yaml:4: images are not built here"),
    ("gluetun", "gluetun.yaml:8: sharing another container's network"),
    ("pihole", "pihole.yaml:7: \"53:53/udp\": only tcp"),
    ("portainer", "portainer.yaml:7: with this portainer holds Docker's socket"),
    ("proxied", "proxied.yaml:7: a stack shares no network"),
];

/// As `tests/parity/compose.py` tells it.
fn told(name: &str, service: &ServiceSpec) -> Value {
    let ServiceSpec { container, depends_on, .. } = service;
    let base = format!("{}", folder().display());
    let own = |full: &str| full.strip_prefix(&format!("sovereign.{name}.")).unwrap_or(full).to_owned();
    let mount = |mount: &crate::docker::Mount| {
        let source = match &mount.source {
            MountSource::Volume(volume) => own(volume),
            MountSource::Bind(path) => path.display().to_string().replace(&base, "."),
            MountSource::Anonymous => String::new(),
            MountSource::Text(_) => return None,
        };
        // Secrets that are files are no mounts to docker-compose.
        (!mount.target.starts_with("/run/secrets/")).then(|| json!([source, mount.target, mount.read_only]))
    };
    let sorted = |mut all: Vec<Value>| {
        all.sort_by_key(Value::to_string);
        all
    };
    let restart = match container.restart {
        crate::docker::Restart::No => "no".to_owned(),
        crate::docker::Restart::Always => "always".into(),
        crate::docker::Restart::UnlessStopped => "unless-stopped".into(),
        crate::docker::Restart::OnFailure(None) => "on-failure".into(),
        crate::docker::Restart::OnFailure(Some(tries)) => format!("on-failure:{tries}"),
    };
    let condition = |condition: &Condition| match condition {
        Condition::Started => "service_started",
        Condition::Healthy => "service_healthy",
        Condition::Completed => "service_completed_successfully",
    };
    let waits: BTreeMap<_, _> = depends_on.iter().map(|(name, keys)| (name, condition(keys))).collect();
    let aliases = |attachment: &crate::docker::Attachment| attachment.aliases[1..].to_vec();
    let networks: BTreeMap<_, _> =
        container.networks.iter().map(|attachment| (own(&attachment.network), aliases(attachment))).collect();
    let check = container.healthcheck.as_ref();
    let mut hosts = container.rare.extra_hosts.clone();
    hosts.sort();
    json!({
        "image": container.image,
        "command": container.command,
        "entrypoint": container.entrypoint,
        "environment": container.environment,
        "ports": sorted(container.ports.iter().map(|port| json!(port.to_string())).collect()),
        "mounts": sorted(container.mounts.iter().filter_map(mount).collect()),
        "depends_on": waits,
        "restart": restart,
        "user": container.user,
        "hostname": container.rare.hostname,
        "working_dir": container.working_dir,
        "networks": networks,
        "cap_add": container.cap_add,
        "labels": container.labels,
        "extra_hosts": hosts,
        "stop_grace": container.stop_grace.as_secs_f64(),
        "stop_signal": container.stop_signal,
        "memory": container.memory,
        "cores": container.nano_cpus.map(|cpus| cpus as f64 / 1e9),
        "shm_size": container.shm_size,
        "read_only": container.read_only,
        "privileged": container.rare.privileged,
        "test": check.map(|check| &check.test).filter(|test| !test.is_empty()),
        "interval": check.and_then(|check| check.interval).map(|time| time.as_secs_f64()),
        "retries": check.and_then(|check| check.retries),
        "logging": container.rare.logging.as_ref().map(|logging| logging.options.clone()).unwrap_or_default(),
        "sysctls": container.rare.sysctls,
        "ulimits": container.ulimits,
    })
}

/// What docker-compose says, in the words above: a container's name is one of its names on each network.
fn expected(name: &str, mut service: Value) -> Value {
    let fields = service.as_object_mut().unwrap();
    if let Some(further) = fields.remove("container_name").filter(|further| further.is_string() && further != name) {
        for aliases in fields["networks"].as_object_mut().unwrap().values_mut() {
            aliases.as_array_mut().unwrap().push(further.clone());
        }
    }
    for list in ["ports", "mounts"] {
        fields[list].as_array_mut().unwrap().sort_by_key(Value::to_string);
    }
    service
}

#[test]
fn files_mean_what_docker_compose_says_that_they_mean() {
    let oracle: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_str(&std::fs::read_to_string(folder().join("expected.json")).unwrap()).unwrap();
    let mut compared = 0;
    let mut wrong = Vec::new();
    for (name, services) in oracle {
        if REFUSED.iter().any(|(refused, _)| *refused == name) {
            continue;
        }
        let spec = read(&name).unwrap_or_else(|error| panic!("{error}"));
        for (service, oracles) in services {
            // The older reader leaves out nothing for its profile; ours does where none is asked for.
            let Some(found) = spec.service(&service) else {
                wrong.push(format!("{name}: {service} is missing"));
                continue;
            };
            let (ours, theirs) = (told(&name, found), expected(&service, oracles));
            for (field, value) in theirs.as_object().unwrap() {
                if ours[field] != *value {
                    wrong.push(format!("{name}/{service} {field}: {} and not {value}", ours[field]));
                }
            }
        }
        compared += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared >= 35, "{compared} files");
}

#[test]
fn what_cannot_be_had_is_refused_with_its_line() {
    for (name, expected) in REFUSED {
        let told = read(name).unwrap_err().to_string().replace(&format!("{}/", folder().display()), "");
        assert!(told.starts_with(expected), "{told:?} should start with {expected:?}");
    }
}

#[test]
fn every_file_is_understood_or_refused() {
    let mut files = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "yaml") {
            files += 1;
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let refused = REFUSED.iter().any(|(refused, _)| *refused == name);
            assert_eq!(read(&name).is_err(), refused, "{:?}", read(&name).err().map(|error| error.to_string()));
        }
    }
    assert!(files >= 40, "{files} files");
}

/// From the specification.
#[test]
fn files_of_the_newer_specification() {
    let service = |file: &str, service: &str| read(file).unwrap().service(service).unwrap().clone();
    let cards = |file: &str, name: &str| service(file, name).container.gpu.unwrap().cards;
    assert_eq!(cards("comfyui", "comfyui"), Cards::All);
    assert_eq!(cards("vllm", "vllm"), Cards::All);
    assert_eq!(cards("immich", "immich-machine-learning"), Cards::One);
    assert_eq!(cards("open-webui", "ollama"), Cards::One);
    assert_eq!(cards("frigate", "frigate"), Cards::These(vec!["0".into()]));
    assert_eq!(read("comfyui").unwrap().web.as_deref(), Some(":8188/"));

    let immich = service("immich", "immich-server").container;
    assert_eq!(immich.image, "ghcr.io/immich-app/immich-server:release");
    assert_eq!(immich.environment["DB_PASSWORD"], "p@ss word");
    let database = service("immich", "database").container;
    assert_eq!(database.command.unwrap()[4], "search_path=\"$user\", public, vectors");

    let caddy = service("caddy", "caddy").container;
    let page = caddy.mounts.iter().find(|mount| mount.target == "/etc/caddy/Caddyfile").unwrap();
    let text = ":80 {\n  respond \"hello from ${HOSTNAME}\"\n}\n".to_owned();
    assert_eq!(page.source, MountSource::Text(crate::docker::Text(text)));

    let appliance = read("appliance").unwrap();
    let names: Vec<_> = appliance.services.iter().map(|service| &*service.name).collect();
    assert_eq!(names, ["chroma", "embed", "uptime-kuma", "gateway"]);

    let tools = read("debug-tools").unwrap();
    let [app] = &tools.services[..] else { panic!("the shell has another profile") };
    assert_eq!(app.container.networks[0].address.as_deref(), Some("172.31.7.10"));
    assert_eq!(tools.networks["sovereign.debug-tools.back"].subnets[0].subnet, "172.31.7.0/24");
    assert_eq!(app.container.ports.len(), 3);

    let music = &read("navidrome").unwrap().volumes["sovereign.navidrome.music"];
    assert_eq!((music.options["type"].as_str(), music.options["device"].as_str()), ("nfs", ":/volume1/music"));
    let litellm = read("litellm").unwrap();
    assert!(litellm.volumes.contains_key("litellm_postgres_data"));
    assert!(read("calibre-web").unwrap().volumes.is_empty(), "what is external is not ours to make or to remove");
    let warnings = read("home-assistant").unwrap().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}
