//! From a process to the containers that it is in, by its control groups.

use std::fs;
use std::path::Path;

/// Digits of a container's identifier, with every engine.
const DIGITS: usize = 64;
/// The first PID namespace, whose numbers are those that the driver counts by: the kernel gives it this name.
const HOST: &str = "pid:[4026531836]";

/// Whether the numbers of processes under `/proc` are the host's. In a container they are not, unless it runs with
/// `pid: host`, and the driver's numbers would be looked up as somebody else's.
pub(super) fn sees_host() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace.as_os_str() == HOST)
}

/// The identifiers of the containers that a process is in, innermost first; none for a process of the host's, and for
/// one that has ended.
pub(super) fn containers_of(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cgroup")).unwrap_or_default();
    containers(&text).into_iter().map(str::to_owned).collect()
}

/// The same, of the text of `/proc/PID/cgroup`: a line `0::PATH` with cgroup v2, and one a controller with v1.
fn containers(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for line in text.lines() {
        let path = line.splitn(3, ':').nth(2).unwrap_or_default();
        for id in path.rsplit('/').filter_map(container) {
            if !found.contains(&id) {
                found.push(id);
            }
        }
    }
    found
}

/// The container that a control group is made for. cgroupfs drivers call it by the identifier alone; systemd's call it
/// `docker-ID.scope`, `libpod-ID.scope`, `cri-containerd-ID.scope` or `crio-ID.scope`.
fn container(group: &str) -> Option<&str> {
    let unit = group.strip_suffix(".scope").unwrap_or(group);
    let id = unit.rsplit_once('-').map_or(unit, |(_, id)| id);
    let is_id = id.len() == DIGITS && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "3f4a0c1d2e5b69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
    const B: &str = "0000000000000000000000000000000000000000000000000000000000000b0b";

    #[test]
    fn every_engine_is_understood() {
        let check = |form: &str, expected: &[&str]| {
            let text = form.replace("<A>", A).replace("<B>", B);
            assert_eq!(containers(&text), expected, "{form}");
        };
        // Docker: cgroup v2 with systemd (TrueNAS, Debian) and with cgroupfs (Unraid), v1, hybrid.
        check("0::/system.slice/docker-<A>.scope\n", &[A]);
        check("0::/docker/<A>\n", &[A]);
        check("12:pids:/docker/<A>\n4:memory:/docker/<A>\n1:name=systemd:/docker/<A>\n", &[A]);
        check("9:memory:/system.slice/docker-<A>.scope\n0::/system.slice/docker-<A>.scope\n", &[A]);
        check("4:memory:/docker/<A>\n0::/\n", &[A]);
        // A group of the container's own making.
        check("0::/system.slice/docker-<A>.scope/init.scope\n", &[A]);
        check("0::/docker/<A>/worker/7\n", &[A]);
        // Seen from another container with a control group namespace of its own.
        check("0::/../<A>\n", &[A]);
        check("0::/../docker-<A>.scope\n", &[A]);
        check("0::/../../system.slice/docker-<A>.scope\n", &[A]);
        // A parent that the owner chose, and rootless Docker.
        check("0::/ai.slice/ai-models.slice/docker-<A>.scope\n", &[A]);
        check("0::/user.slice/user-1000.slice/user@1000.service/app.slice/docker-<A>.scope\n", &[A]);
        // Podman, with root and without; Kubernetes by containerd and CRI-O.
        check("0::/machine.slice/libpod-<A>.scope/container\n", &[A]);
        check("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-<A>.scope/container\n", &[A]);
        check("0::/libpod_parent/libpod-<A>\n", &[A]);
        check(
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7_1.slice/cri-containerd-<A>.scope\n",
            &[A],
        );
        check("5:memory:/kubepods/besteffort/pod2c48913c-b29f-11e7-9350-020968147796/<A>\n", &[A]);
        check("0::/kubepods.slice/kubepods-pod7.slice/crio-<A>.scope\n", &[A]);
        // Docker in Docker: the inner one first.
        check("0::/docker/<A>/docker/<B>\n", &[B, A]);
        check("4:memory:/system.slice/docker-<A>.scope/docker/<B>\n", &[B, A]);
        // The host's: a desktop, a service, and what only looks like a container.
        check("0::/\n", &[]);
        check("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4711.scope\n", &[]);
        check("0::/system.slice/ollama.service\n", &[]);
        check("0::/system.slice/docker.service\n", &[]);
        check("0::/docker/<A>0\n", &[]);
        check(&format!("0::/docker/{}\n", A.to_uppercase()), &[]);
        check("", &[]);
        check("nonsense", &[]);
    }

    #[test]
    fn this_process_is_found() {
        // Whatever it is in, the kernel tells of it.
        assert!(fs::read_to_string("/proc/self/cgroup").is_ok());
        assert_eq!(containers_of(u32::MAX), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[0-9a-f:/.\n-]{0,400}|\\PC{0,200}") {
            for id in containers(&text) {
                prop_assert!(id.len() == DIGITS && text.contains(id));
            }
        }

        #[test]
        fn what_stands_around_an_identifier_is_no_matter(before in "(/[a-z]{1,12}(\\.slice)?){0,4}", after in "(/[a-z]{1,9}){0,3}") {
            for unit in [A.to_owned(), format!("docker-{A}.scope"), format!("libpod-{A}.scope")] {
                let text = format!("0::{before}/{unit}{after}\n");
                prop_assert_eq!(containers(&text), [A]);
            }
        }
    }
}
