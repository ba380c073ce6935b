//! Containers, as the pages show them.

use crate::docker::{Container, Publish, Status};
use crate::stacks::ServiceView;

/// One container.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    pub stack: String,
    pub service: String,
    pub image: String,
    pub class: &'static str,
    pub state: String,
    pub restarts: u32,
    pub ports: String,
}

impl Row {
    /// What is shown of a container.
    pub fn of(container: &Container) -> Self {
        Self::of_service(&container.stack, &ServiceView::from(container))
    }

    /// What is shown of a service of `stack`.
    pub fn of_service(stack: &str, service: &ServiceView) -> Self {
        Self {
            stack: stack.into(),
            service: service.name.clone(),
            image: image(&service.image),
            class: class(service.status),
            state: service.status.to_string(),
            restarts: service.restarts,
            ports: ports(&service.ports),
        }
    }
}

/// The colour of a state.
fn class(status: Status) -> &'static str {
    match status {
        Status::Running | Status::Healthy => "good",
        Status::Created | Status::Starting | Status::Restarting | Status::Removing => "busy",
        Status::Unhealthy | Status::Dead => "bad",
        Status::Exited(0) | Status::Paused => "",
        Status::Exited(_) => "bad",
    }
}

/// An image without the digest that pins it, which nobody reads.
fn image(image: &str) -> String {
    image.split('@').next().unwrap_or(image).to_owned()
}

fn ports(ports: &[Publish]) -> String {
    if ports.is_empty() {
        return "–".into();
    }
    ports.iter().map(|port| port.listen.port().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_colours() {
        let check = |status, expected| assert_eq!(class(status), expected, "{status}");
        check(Status::Healthy, "good");
        check(Status::Starting, "busy");
        check(Status::Exited(0), "");
        check(Status::Exited(137), "bad");
    }

    #[test]
    fn what_is_told_of_image_and_ports() {
        assert_eq!(image("chromadb/chroma:1.0@sha256:ab"), "chromadb/chroma:1.0");
        assert_eq!(ports(&[]), "–");
        let publish = |text: &str| text.parse().expect("a port");
        assert_eq!(ports(&[publish("127.0.0.1:8000->80"), publish("[::]:9000->90")]), "8000, 9000");
    }
}
