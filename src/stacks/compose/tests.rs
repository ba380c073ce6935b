use super::*;
use crate::docker::{Cards, GpuSpec};
use crate::stacks::spec::{self, Spec};
use proptest::prelude::*;

fn read(text: &str) -> Result<Spec, Error> {
    let variables = HashMap::from([("TAG".to_owned(), "7".to_owned()), ("EMPTY".to_owned(), String::new())]);
    let file = Path::new("s.yaml");
    let origin = Origin { file: file.into(), base: Some("/srv".into()), variables: variables.clone() };
    spec::resolve("s", &load(text, &origin)?, file, &variables)
}

/// The JSON of one service's container, in a file that says nothing else.
fn container(service: &str) -> serde_json::Value {
    let text =
        format!("services:\n  a:\n    image: x\n{service}volumes:\n  data:\nnetworks:\n  back: {{internal: true}}\n");
    let spec = read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    serde_json::to_value(&spec.services[0].container).unwrap()
}

#[track_caller]
fn check(key: &str, field: &str, expected: serde_json::Value) {
    assert_eq!(container(&format!("    {key}\n"))[field], expected, "{key}");
}

#[test]
fn what_each_key_means() {
    use serde_json::json;
    check("command: run \"a b\"", "command", json!(["run", "a b"]));
    check("command: [run, a b]", "command", json!(["run", "a b"]));
    check("entrypoint: []", "entrypoint", json!([]));
    check(
        "environment: {A: 1, B: no, C: '', D: 0755, TAG:, GONE: }",
        "environment",
        json!({"A": "1", "B": "no", "C": "", "D": "0755", "TAG": "7"}),
    );
    check("environment: [A=1, B=x=y, TAG, GONE]", "environment", json!({"A": "1", "B": "x=y", "TAG": "7"}));
    check("environment: {A: \"${TAG}-${NONE:-d}-${EMPTY:-e}-$$TAG\"}", "environment", json!({"A": "7-d-e-$TAG"}));
    check(
        "ports: [\"8000:80\", {target: 1, published: 2, host_ip: \"::1\"}]",
        "ports",
        json!(["0.0.0.0:8000->80", "[::1]:2->1"]),
    );
    check("ports: [\"80${TAG}:22\", 22:22]", "ports", json!(["0.0.0.0:807->22", "0.0.0.0:22->22"]));
    let mounts = json!([
        {"source": {"Volume": "sovereign.s.data"}, "target": "/d", "read_only": false},
        {"source": {"Bind": "/srv/conf"}, "target": "/c", "read_only": true},
        {"source": {"Bind": "/etc/x"}, "target": "/x", "read_only": true},
    ]);
    let volumes = "volumes: [\"data:/d\", \"./conf:/c:ro\", {type: bind, source: /etc/x, target: /x, read_only: true}]";
    check(volumes, "mounts", mounts);
    check("restart: \"no\"", "restart", json!("No"));
    check("restart: no", "restart", json!("No"));
    check("restart: on-failure:3", "restart", json!({"OnFailure": 3}));
    check("user: 1000:1000", "user", json!("1000:1000"));
    check("user: 1000", "user", json!("1000"));
    check("read_only: true", "read_only", json!(true));
    check("tmpfs: /tmp", "tmpfs", json!({"/tmp": ""}));
    check("tmpfs: [\"/tmp:size=64m\", /run]", "tmpfs", json!({"/tmp": "size=64m", "/run": ""}));
    check("mem_limit: 512m", "memory", json!(512 << 20));
    check("mem_limit: 1024", "memory", json!(1024));
    check("deploy: {resources: {limits: {memory: 1g, cpus: '0.5', pids: 9}}}", "memory", json!(1 << 30));
    check("deploy: {resources: {limits: {cpus: '0.5'}}}", "nano_cpus", json!(500_000_000));
    check("deploy: {resources: {limits: {pids: 9}}}", "pids_limit", json!(9));
    check("shm_size: 1gb", "shm_size", json!(1 << 30));
    check(
        "ulimits: {nofile: 65536, core: {soft: 0, hard: -1}}",
        "ulimits",
        json!({"nofile": {"soft": 65536, "hard": 65536}, "core": {"soft": 0, "hard": -1}}),
    );
    check("labels: [a=b, c]", "labels", json!({"a": "b", "c": ""}));
    check("stop_grace_period: 1m30s", "stop_grace", json!({"secs": 90, "nanos": 0}));
    check("networks: [back]", "networks", json!([{"network": "sovereign.s.back", "aliases": ["a"]}]));
    check(
        "networks: {back: {aliases: [db]}, default: }",
        "networks",
        json!([
            {"network": "sovereign.s.back", "aliases": ["a", "db"]},
            {"network": "sovereign.s.default", "aliases": ["a"]},
        ]),
    );
    check("container_name: pg", "networks", json!([{"network": "sovereign.s.default", "aliases": ["a", "pg"]}]));
    check(
        "networks: {back: {ipv4_address: 172.30.0.9}}",
        "networks",
        json!([
            {"network": "sovereign.s.back", "aliases": ["a"], "address": "172.30.0.9"},
        ]),
    );
    check("network_mode: none", "networks", json!([]));
    check("deploy: {restart_policy: {condition: on-failure, max_attempts: 3}}", "restart", json!({"OnFailure": 3}));
    check("ports: [\"80-81:90-91\"]", "ports", json!(["0.0.0.0:80->90", "0.0.0.0:81->91"]));
    let mounts = json!([
        {"source": "Anonymous", "target": "/cache", "read_only": false},
        {"source": {"Bind": "/srv/m"}, "target": "/m", "read_only": true, "options": ["rslave"]},
    ]);
    let volumes =
        "volumes: [/cache, {type: tmpfs, target: /t, tmpfs: {size: 64m, mode: 0o1777}}, \"/srv/m:/m:ro,rslave\"]";
    check(volumes, "mounts", mounts);
    check(volumes, "tmpfs", json!({"/t": "size=67108864,mode=1777"}));
    let rare = |key: &str, expected: serde_json::Value| check(key, "rare", expected);
    rare("hostname: h", json!({"hostname": "h"}));
    rare("extra_hosts: [\"b:10.0.0.1\", \"c=::1\"]", json!({"extra_hosts": ["b:10.0.0.1", "c:::1"]}));
    rare("group_add: [44, video]", json!({"group_add": ["44", "video"]}));
    rare("sysctls: {net.core.somaxconn: 1024}", json!({"sysctls": {"net.core.somaxconn": "1024"}}));
    rare("stdin_open: true\n    tty: true", json!({"tty": true, "stdin_open": true}));
    rare("mem_reservation: 1g\n    memswap_limit: -1", json!({"memory_reservation": 1 << 30, "memory_swap": -1}));
    rare("deploy: {resources: {reservations: {memory: 1g}}}", json!({"memory_reservation": 1 << 30}));
    rare("cpu_shares: 512\n    cpuset: 0-3", json!({"cpu_shares": 512, "cpuset": "0-3"}));
    rare("oom_score_adj: -500", json!({"oom_score_adj": -500}));
    rare("platform: linux/amd64", json!({"platform": "linux/amd64"}));
    rare("ipc: shareable", json!({"shareable_ipc": true}));
    rare(
        "logging: {options: {max-size: 10m}}",
        json!({"logging": {"driver": "json-file", "options": {"max-size": "10m"}}}),
    );
    for (key, expected) in [
        ("privileged: true\n    x-sovereign: {allow: [privileged]}", json!({"privileged": true})),
        ("pid: host\n    x-sovereign: {allow: [host-pid]}", json!({"host_pid": true})),
        ("ipc: host\n    x-sovereign: {allow: [host-ipc]}", json!({"host_ipc": true})),
        ("network_mode: host\n    x-sovereign: {allow: [host-network]}", json!({"host_network": true})),
        (
            "devices: [/dev/dri]\n    x-sovereign: {allow: [devices]}",
            json!({
                "devices": [{"source": "/dev/dri", "target": "/dev/dri", "permissions": "rwm"}],
            }),
        ),
    ] {
        rare(key, expected);
    }
    let health =
        container("    healthcheck: {test: curl -f x, interval: 5s, timeout: 500ms, retries: 3, start_period: 1m}\n");
    assert_eq!(health["healthcheck"]["test"], json!(["CMD-SHELL", "curl -f x"]));
    assert_eq!(health["healthcheck"]["timeout"], json!({"secs": 0, "nanos": 500_000_000}));
    check(
        "healthcheck: {disable: true}",
        "healthcheck",
        json!({
            "test": ["NONE"], "interval": null, "timeout": null, "retries": null, "start_period": null, "start_interval": null,
        }),
    );
}

#[test]
fn a_file_that_says_nothing_is_held_tightly() {
    use serde_json::json;
    check("init: false", "cap_drop", json!(["ALL"]));
    check("init: false", "security_opt", json!(["no-new-privileges:true"]));
    check("init: false", "pids_limit", json!(1024));
    check("init: false", "networks", json!([{"network": "sovereign.s.default", "aliases": ["a"]}]));
    // It may ask for more.
    check("cap_drop: [NET_RAW]", "cap_drop", json!(["NET_RAW"]));
    check("cap_add: [CHOWN]", "cap_drop", json!(["ALL"]));
    check("security_opt: [\"no-new-privileges:false\"]", "security_opt", json!([]));
    check("pids_limit: -1", "pids_limit", json!(-1));
}

#[test]
fn cards_are_asked_for_in_either_way() {
    let check = |text: &str, cards: Cards, capabilities: &[&str]| {
        let spec = read(&format!("services: {{a: {{image: x, x-sovereign: {{vram: 3g}}, {text}}}}}")).unwrap();
        let capabilities = capabilities.iter().map(|capability| (*capability).to_string()).collect();
        let expected = GpuSpec { cards, capabilities, vram: Some(3 << 30) };
        assert_eq!(spec.services[0].container.gpu, Some(expected), "{text}");
    };
    let devices = |text: &str| format!("deploy: {{resources: {{reservations: {{devices: [{text}]}}}}}}");
    check("gpus: all", Cards::All, &[]);
    check("gpus: [{count: 1}]", Cards::One, &[]);
    check("gpus: [{driver: nvidia, device_ids: [GPU-1], capabilities: [gpu, video]}]", these("GPU-1"), &["video"]);
    check(&devices("{capabilities: [gpu]}"), Cards::All, &[]);
    check(&devices("{count: all, capabilities: [gpu, utility]}"), Cards::All, &["utility"]);
    check(&devices("{device_ids: ['0'], capabilities: [gpu]}"), these("0"), &[]);
    let none = read("services: {a: {image: x, gpus: []}}").unwrap();
    assert_eq!(none.services[0].container.gpu, None);

    fn these(id: &str) -> Cards {
        Cards::These(vec![id.into()])
    }
}

#[test]
fn anchors_merges_and_extensions_are_understood() {
    let spec = read(
        "version: '3'\nx-common: &common\n  image: x:${TAG}\n  restart: always\nx-sovereign: {title: T, description: D}\n\
         services:\n  a: {<<: *common, command: a}\n  b: {<<: *common, image: y}\n",
    )
    .unwrap();
    assert_eq!((spec.title.as_str(), spec.description.as_str()), ("T", "D"));
    let images: Vec<_> = spec.services.iter().map(|service| service.container.image.as_str()).collect();
    assert_eq!(images, ["x:7", "y"]);
    assert!(spec.services.iter().all(|service| service.container.restart == crate::docker::Restart::Always));
}

#[test]
fn services_come_after_what_they_depend_on() {
    let spec = read(
        "services:\n  a: {image: x, depends_on: [c]}\n  b: {image: x}\n\
         \x20 c: {image: x, depends_on: {b: {condition: service_healthy}, d: {condition: service_completed_successfully}}}\n\
         \x20 d: {image: x}\n",
    )
    .unwrap();
    let order: Vec<_> = spec.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(order, ["b", "d", "c", "a"]);
    let jobs: Vec<_> = spec.services.iter().filter(|service| service.is_job).map(|job| job.name.as_str()).collect();
    assert_eq!(jobs, ["d"]);
    assert_eq!(spec.services[2].depends_on["b"], Condition::Healthy);
    assert_eq!(spec.services[3].depends_on["c"], Condition::Started);
}

#[test]
fn what_is_not_supported_is_refused_by_key_and_line() {
    let wrong = std::cell::RefCell::new(Vec::new());
    let check = |text: &str, expected: &str| {
        let error = read(text).expect_err(text).to_string();
        if !error.starts_with(expected) {
            wrong.borrow_mut().push(format!("{error:?} should start with {expected:?}"));
        }
    };
    let service = |text: &str| format!("services:\n  a:\n    image: x\n    {text}\n");
    let refused = |text: &str, expected: &str| check(&service(text), &format!("s.yaml:{expected}"));
    check("servces: {}\n", "s.yaml:1: `servces` is not supported here; did you mean `services`?");
    check("name: s\n\nmodels: {}\nservices: {a: {image: x}}\n", "s.yaml:3: `models` is not supported here. Supported:");
    check("services: {a: {image: x}}\nx-sovereign: {web: 3000}\n", "s.yaml:2: \"3000\" is not a page");
    check("services: {}\n", "s.yaml");
    check("services:\n  a:\n    command: x\n", "s.yaml:3: the service a names no image");
    check("services:\n  a b:\n    image: x\n", "s.yaml:3: \"a b\" cannot be a service's name");
    check(
        "services: {a: {image: x}}\nx-sovereign: {titel: T}\n",
        "s.yaml:2: `titel` is not supported here; did you mean `title`",
    );
    check("services: {a: {image: x}}\nnetworks:\n  n:\n    external: true\n", "s.yaml:4: a stack shares no network");
    check(
        "services: {a: {image: x}}\nnetworks:\n  n:\n    internal: false\n",
        "s.yaml:4: the networks of stacks are internal",
    );
    check("services: {a: {image: x}}\nvolumes:\n  v:\n    driver: nfs\n", "s.yaml:4: the volume driver `nfs` is not");
    check("services: {a: {image: x}, a: {image: y}}\n", "s.yaml:1: ");
    check("services: {a: {image: \"${X:?is needed}\"}}\n", "s.yaml:1: ");
    check("services:\n  a: [\n", "s.yaml:");
    check("", "s.yaml");
    check("- a\n", "s.yaml:1: ");
    refused("volumes:\n      - nope:/data", "5: the volume nope is not among");
    refused("volumes:\n      - data:/data:quick", "5: \"data:/data:quick\": the mode `quick`");
    refused("volumes: [{type: npipe, source: a, target: /b}]", "4: a mount of type `npipe`");
    refused("networks: [nope]", "4: the network nope is not among");
    refused("network_mode: service:b", "4: sharing another container's network");
    refused("network_mode: none\n    ports: [\"1:1\"]", "4: the service a says `network_mode`");
    refused("build: .", "4: images are not built here");
    refused("dns: 1.1.1.1", "4: the networks of stacks are internal");
    refused("pull_policy: always", "4: `pull_policy: always` is not supported");
    refused("deploy: {replicas: 2}", "4: a service has one container here");
    refused(
        "deploy: {restart_policy: {condition: any, max_attempts: 3}}",
        "3: `deploy.restart_policy`: `max_attempts`",
    );
    refused("links: [\"b:db\"]", "4: a link under another name");
    refused("devices: [\"/dev/dri:/dev/dri:x\"]", "4: \"/dev/dri:/dev/dri:x\" is not a device");
    refused("secrets: [nope]", "4: the secret nope is not among");
    refused("extra_hosts: [a]", "4: the host \"a\" has no address");
    refused("env_file: none.env", "4: the variables of /srv/none.env cannot be read");
    refused("depends_on: [nope]", "4: the service a depends on nope");
    refused("depends_on: [a]", "3: the service a depends on itself");
    refused("depends_on: {a: {condition: service_happy}}", "4: ");
    refused("depends_on: {a: {restart: true}}", "4: `restart: true` is not supported");
    refused("labels: {sovereign.stack: other}", "4: the label sovereign.stack is Sovereign's own");
    refused("restart: sometimes", "4: `restart: sometimes` is not one of");
    refused("read_only: yes", "4: ");
    refused("ports: [\"53:53/udp\"]", "4: \"53:53/udp\": only tcp");
    refused("ports: [80]", "4: a port of this machine must be named");
    refused("security_opt: [\"seccomp:mine.json\"]", "4: the security option `seccomp:mine.json`");
    refused("healthcheck: {test: [curl, x]}", "4: `test` begins with");
    refused("healthcheck: {interval: 5}", "4: \"5\" is not a time");
    refused("gpus: some", "4: ");
    let card = |device: &str, expected: &str| {
        refused(&format!("gpus: [{device}]\n    x-sovereign: {{vram: 1g}}"), &format!("4: {expected}"));
    };
    card("{count: 2}", "the service a asks for several cards by their number");
    card("{count: none}", "\"none\" is not a number of cards");
    card("{driver: amd}", "the service a asks for devices that are not NVIDIA's");
    card("{capabilities: [tpu]}", "the service a asks for devices without `capabilities: [gpu]`");
    card("{count: 1, device_ids: [\"0\"]}", "the service a says both `count` and `device_ids`");
    card("{}, {}", "the service a asks for several kinds of devices");
    card("{options: {a: b}}", "`options` is not supported here");
    refused("x-sovereign: {vram: 1g}", "3: the service a uses none");
    refused("x-sovereign: {ram: 1g}", "4: `ram` is not supported here");
    refused("mem_limit: lots", "4: \"lots\" is not a size");
    refused("cpus: many", "4: \"many\" is not a number of cores");
    refused("ulimits: {nofile: {soft: 1}}", "4: ");
    refused("networks: []\n    ports: [\"1:1\"]", "4: the service a is on no network");
    assert!(wrong.borrow().is_empty(), "{}", wrong.borrow().join("\n"));
}

#[test]
fn every_key_is_in_the_manual() {
    let manual = include_str!("../../../docs/stacks.md");
    let error = read("services: {a: {zzz: 1}}").unwrap_err().to_string();
    let known = error.split("Supported: ").nth(1).unwrap();
    let missing: Vec<_> = known.split(", ").filter(|key| !manual.contains(&format!("`{key}"))).collect();
    assert!(known.contains("cap_drop") && missing.is_empty(), "docs/stacks.md lacks {missing:?}");
}

#[test]
fn a_shipped_file_cannot_mount_what_is_beside_it() {
    let text = "services: {a: {image: x, volumes: [./data:/data]}}";
    let origin = Origin { file: "s.yaml".into(), base: None, variables: HashMap::new() };
    let error = load(text, &origin).unwrap_err();
    assert!(error.to_string().contains("is relative to"), "{error}");
}

#[test]
fn a_digest_follows_the_container_alone() {
    let config = |text: &str| read(text).unwrap().services[0].config.clone();
    let base = config("services: {a: {image: x}}");
    assert_eq!(base, config("x-sovereign: {title: Other}\nservices:\n  a:\n    image: x # same\n    init: false\n"));
    assert_ne!(base, config("services: {a: {image: y}}"));
    assert_ne!(base, config("services: {a: {image: x, environment: {A: ''}}}"));
    assert_ne!(base, config("services: {a: {image: x, ports: [\"1:1\"]}}"));
}

proptest! {
    #[test]
    fn no_text_is_too_strange(text in "([a-z{}\\[\\]:,&*!|>'\"$# \n-]|services|image|<<){0,60}") {
        let _ = read(&text);
    }
}

#[test]
fn a_way_out_is_a_list() {
    let file = |egress: &str| {
        format!(
            "services:\n  a: {{image: x, networks: {{n: {{aliases: [db]}}}}}}\n  b: {{image: x}}\nnetworks: {{n: }}\n\
             x-sovereign: {{egress: {egress}}}\n"
        )
    };
    let exit = |egress: &str| read(&file(egress)).unwrap().services[0].container.exit.clone();
    assert_eq!(exit("[]"), None);
    let allowed = ["a.example", "b.example:22", "*.c.example"].map(str::to_owned).to_vec();
    let direct = ["a", "b", "db"].map(str::to_owned).to_vec();
    assert_eq!(exit("[A.example, 'b.example:22', '*.c.example']"), Some(crate::docker::Exit { allowed, direct }));
    let error = |egress: &str| read(&file(egress)).unwrap_err().to_string();
    assert!(error("['*']").contains("s.yaml:5: `*` would be every host"), "{}", error("['*']"));
    assert!(error("['https://a.example']").contains("s.yaml:5: "), "{}", error("['https://a.example']"));
}

mod files;
mod homelab;
