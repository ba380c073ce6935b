//! A service that is like another: what it says itself counts more, and lists are put together.

use super::deploy::{Deploy, Limits, Reservations, Resources};
use super::service::{Service, ServiceNetworks, ServiceSovereign};
use super::{DependsOn, Pairs};
use serde_yaml::Spanned;

impl Service {
    /// What this one says over what `base` says, as `extends` has it.
    pub fn over(self, base: Service) -> Service {
        Service {
            image: self.image.or(base.image),
            command: self.command.or(base.command),
            entrypoint: self.entrypoint.or(base.entrypoint),
            network_mode: self.network_mode.or(base.network_mode),
            container_name: self.container_name.or(base.container_name),
            hostname: self.hostname.or(base.hostname),
            domainname: self.domainname.or(base.domainname),
            restart: self.restart.or(base.restart),
            user: self.user.or(base.user),
            read_only: self.read_only.or(base.read_only),
            privileged: self.privileged.or(base.privileged),
            pid: self.pid.or(base.pid),
            ipc: self.ipc.or(base.ipc),
            runtime: self.runtime.or(base.runtime),
            mem_limit: self.mem_limit.or(base.mem_limit),
            mem_reservation: self.mem_reservation.or(base.mem_reservation),
            memswap_limit: self.memswap_limit.or(base.memswap_limit),
            cpus: self.cpus.or(base.cpus),
            cpu_shares: self.cpu_shares.or(base.cpu_shares),
            cpuset: self.cpuset.or(base.cpuset),
            oom_score_adj: self.oom_score_adj.or(base.oom_score_adj),
            shm_size: self.shm_size.or(base.shm_size),
            pids_limit: self.pids_limit.or(base.pids_limit),
            init: self.init.or(base.init),
            tty: self.tty.or(base.tty),
            stdin_open: self.stdin_open.or(base.stdin_open),
            stop_grace_period: self.stop_grace_period.or(base.stop_grace_period),
            stop_signal: self.stop_signal.or(base.stop_signal),
            working_dir: self.working_dir.or(base.working_dir),
            gpus: self.gpus.or(base.gpus),
            platform: self.platform.or(base.platform),
            attach: self.attach.or(base.attach),
            healthcheck: self.healthcheck.or(base.healthcheck),
            logging: self.logging.or(base.logging),
            environment: pairs(self.environment, base.environment),
            sysctls: pairs(self.sysctls, base.sysctls),
            annotations: pairs(self.annotations, base.annotations),
            labels: both(self.labels, base.labels, pairs),
            env_file: both(self.env_file, base.env_file, |own, mut base| {
                base.0.extend(own.0);
                base
            }),
            ports: list(self.ports, base.ports),
            expose: list(self.expose, base.expose),
            group_add: list(self.group_add, base.group_add),
            profiles: self.profiles,
            // Two mounts at one place are one.
            volumes: {
                let hidden = |target: &String| self.volumes.iter().any(|own| own.value.target == *target);
                let mut all: Vec<_> = base.volumes.into_iter().filter(|one| !hidden(&one.value.target)).collect();
                all.extend(self.volumes);
                all
            },
            networks: both(self.networks, base.networks, |own: ServiceNetworks, mut base: ServiceNetworks| {
                base.0.extend(own.0);
                base
            }),
            depends_on: both(self.depends_on, base.depends_on, |own: DependsOn, mut base: DependsOn| {
                base.0.extend(own.0);
                base
            }),
            links: both(self.links, base.links, list),
            extra_hosts: {
                let mut all = base.extra_hosts;
                all.0.extend(self.extra_hosts.0);
                all
            },
            tmpfs: {
                let mut all = base.tmpfs;
                all.0.extend(self.tmpfs.0);
                all
            },
            cap_drop: match (self.cap_drop, base.cap_drop) {
                (Some(own), Some(base)) => Some(list(own, base)),
                (own, base) => own.or(base),
            },
            cap_add: both(self.cap_add, base.cap_add, list),
            security_opt: both(self.security_opt, base.security_opt, list),
            devices: both(self.devices, base.devices, list),
            secrets: both(self.secrets, base.secrets, list),
            configs: both(self.configs, base.configs, list),
            deploy: deploy(self.deploy, base.deploy),
            ulimits: {
                let mut all = base.ulimits;
                all.extend(self.ulimits);
                all
            },
            sovereign: ServiceSovereign {
                vram: self.sovereign.vram.or(base.sovereign.vram),
                allow: list(self.sovereign.allow, base.sovereign.allow),
            },
            extends: None,
            pull_policy: self.pull_policy,
            scale: (),
            build: (),
            dns: (),
            dns_search: (),
            dns_opt: (),
        }
    }
}

fn pairs(own: Pairs, mut base: Pairs) -> Pairs {
    base.0.extend(own.0);
    base
}

/// What the base has, then what is said beyond.
fn list<T: PartialEq>(own: Vec<T>, mut base: Vec<T>) -> Vec<T> {
    for one in own {
        if !base.contains(&one) {
            base.push(one);
        }
    }
    base
}

fn both<T>(own: Option<Spanned<T>>, base: Option<Spanned<T>>, merge: impl Fn(T, T) -> T) -> Option<Spanned<T>> {
    match (own, base) {
        (Some(own), Some(base)) => {
            let Spanned { value, referenced, defined } = own;
            Some(Spanned { value: merge(value, base.value), referenced, defined })
        }
        (own, base) => own.or(base),
    }
}

fn deploy(own: Deploy, base: Deploy) -> Deploy {
    let (own_limits, limits) = (own.resources.limits, base.resources.limits);
    let (own_reserved, reserved) = (own.resources.reservations, base.resources.reservations);
    Deploy {
        mode: (),
        replicas: (),
        resources: Resources {
            limits: Limits {
                memory: own_limits.memory.or(limits.memory),
                cpus: own_limits.cpus.or(limits.cpus),
                pids: own_limits.pids.or(limits.pids),
            },
            reservations: Reservations {
                memory: own_reserved.memory.or(reserved.memory),
                devices: own_reserved.devices.or(reserved.devices),
            },
        },
        restart_policy: own.restart_policy.or(base.restart_policy),
    }
}
