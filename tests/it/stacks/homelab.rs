//! What homelab files say of a container, as the engine was told.

use super::engine::{Engine, IMAGE};
use super::{container, daemon, greeting, present, raw, until, write};
use serde_json::{Value, json};
use sovereign::stacks::StackState;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_as_its_files_say() {
    let engine = Engine::start();
    let folder = tempfile::tempdir().unwrap();
    let stacks = folder.path().join("stacks");
    std::fs::create_dir_all(stacks.join("shared")).unwrap();
    std::fs::write(stacks.join(".env"), "WORD=hush\n").unwrap();
    std::fs::write(stacks.join("a.env"), "GREETING=hi\nMORE=1\n").unwrap();
    std::fs::write(
        stacks.join("shared/base.yaml"),
        json!({"services": {"base": {
            "image": IMAGE, "hostname": "h", "init": true, "volumes": ["./data:/data:ro"],
        }}})
        .to_string(),
    )
    .unwrap();
    // Two ports next to each other, which nobody has.
    let ports = (20_000..30_000)
        .step_by(2)
        .find(|first| [*first, first + 1].iter().all(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()));
    let first: u16 = ports.unwrap();
    let range = format!("127.0.0.1:{first}-{}:7777-7778", first + 1);
    let file = json!({
        "services": {
            "web": {
                "extends": {"file": "shared/base.yaml", "service": "base"},
                "env_file": "a.env",
                "ports": [range],
                "group_add": ["44"],
                "sysctls": {"net.core.somaxconn": 512},
                "extra_hosts": ["other:10.1.2.3"],
                "mem_limit": "64m", "mem_reservation": "32m", "cpu_shares": 512,
                "logging": {"driver": "json-file", "options": {"max-size": "1m"}},
                "volumes": ["/cache", "kept:/kept"],
                "networks": {"back": {"ipv4_address": "172.31.77.10"}},
            },
            "job": {
                "image": IMAGE,
                "command": ["show", "/run/secrets/word", "/etc/page"],
                "read_only": true,
                "secrets": ["word"],
                "configs": [{"source": "page", "target": "/etc/page"}],
                "pid": "host",
                "x-sovereign": {"allow": ["host-pid"]},
            },
        },
        "secrets": {"word": {"environment": "WORD"}},
        "configs": {"page": {"content": "a ${WORD} page"}},
        "volumes": {"kept": {"name": "kept-by-name", "labels": {"a": "b"}}},
        "networks": {"back": {"ipam": {"config": [{"subnet": "172.31.77.0/24"}]}}},
    });
    write(folder.path(), "lab", &file);
    let app = daemon(folder.path(), &engine.host()).await;
    present(&app).await;
    app.stacks.up("lab").await.unwrap().await.unwrap();

    assert_eq!(greeting(first).await, "hi");
    let inspected: Value = serde_json::from_str(&engine.docker(&["inspect", &container(&app, "web")])).unwrap();
    let (host, config) = (&inspected[0]["HostConfig"], &inspected[0]["Config"]);
    assert_eq!(config["Hostname"], "h");
    assert_eq!(host["GroupAdd"], json!(["44"]));
    assert_eq!(host["Sysctls"], json!({"net.core.somaxconn": "512"}));
    assert_eq!(host["ExtraHosts"], json!(["other:10.1.2.3"]));
    assert_eq!([&host["Memory"], &host["MemoryReservation"], &host["CpuShares"]], [64 << 20, 32 << 20, 512]);
    assert_eq!(host["LogConfig"], json!({"Type": "json-file", "Config": {"max-size": "1m"}}));
    let shown = host["Binds"]
        .as_array()
        .unwrap()
        .iter()
        .any(|bind| *bind == format!("{}:/data:ro", stacks.join("shared/data").display()));
    assert!(shown, "{}", host["Binds"]);
    let mounts = inspected[0]["Mounts"].as_array().unwrap();
    assert!(mounts.iter().any(|mount| mount["Destination"] == "/cache" && mount["Type"] == "volume"), "{mounts:?}");
    let networks = &inspected[0]["NetworkSettings"]["Networks"];
    assert_eq!(networks["sovereign.lab.back"]["IPAddress"], "172.31.77.10");
    let volume: Value = serde_json::from_str(&engine.docker(&["volume", "inspect", "kept-by-name"])).unwrap();
    assert_eq!(volume[0]["Labels"]["a"], "b");

    // Texts are files for the container, and for nobody else.
    let printed = raw(&app, "/admin/v1/stacks/lab/logs").await.1;
    assert!(printed.contains("job | /run/secrets/word: hush\n"), "{printed}");
    assert!(printed.contains("job | /etc/page: a hush page\n"), "{printed}");
    let view =
        until(&app, "lab", "its rest", |view| view.state == StackState::Running && view.progress.is_none()).await;
    assert_eq!(view.warnings, ["job sees this machine's processes"]);

    // What it is not told anew, it is not made anew for.
    let before = container(&app, "web");
    app.stacks.up("lab").await.unwrap().await.unwrap();
    assert_eq!(container(&app, "web"), before);

    app.stacks.remove("lab").await.unwrap().await.unwrap();
    assert!(!folder.path().join("texts/lab").exists(), "its texts are left behind");
    assert!(!engine.try_docker(&["volume", "inspect", "kept-by-name"]).status.success());
    app.close().await;
}
