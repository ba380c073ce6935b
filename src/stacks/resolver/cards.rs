use super::Resolver;
use crate::docker::{Cards, GpuSpec};
use crate::stacks::compose::{Count, DeviceKeys, DevicePathKey, Error, RuntimeKey, Service};

impl Resolver<'_> {
    /// The cards that it sees, and what it may take of them.
    pub(super) fn gpu(&self, service: &str, written: &Service, line: u64) -> Result<Option<GpuSpec>, Error> {
        let reserved = written.deploy.resources.reservations.devices.as_ref();
        let asked = written.gpus.as_ref().map(|gpus| (&gpus.value.0, gpus.referenced.line()));
        let asked = asked.or_else(|| reserved.map(|devices| (&devices.value, devices.referenced.line())));
        let otherwise = self.cards_otherwise(written);
        let asked = asked.or_else(|| otherwise.as_ref().map(|(devices, line)| (devices, *line)));
        let Some((devices, line)) = asked.filter(|(devices, _)| !devices.is_empty()) else {
            let said = "`x-sovereign: {vram: ...}` is for services that use a card; say which with `gpus`";
            return match written.sovereign.vram {
                Some(_) => Err(Error::at(self.file, line, format!("the service {service} uses none: {said}"))),
                None => Ok(None),
            };
        };
        let refuse = |what: &str| Err(Error::at(self.file, line, format!("the service {service} {what}")));
        let [DeviceKeys { driver, count, device_ids, capabilities }] = &devices[..] else {
            return refuse("asks for several kinds of devices; one is supported");
        };
        if driver.as_ref().is_some_and(|driver| driver != "nvidia") {
            return refuse("asks for devices that are not NVIDIA's; only those are supported");
        }
        let capabilities = capabilities.clone().unwrap_or_else(|| vec!["gpu".into()]);
        if !capabilities.iter().any(|capability| capability == "gpu") {
            return refuse("asks for devices without `capabilities: [gpu]`; only cards are supported");
        }
        let cards = match (count, device_ids) {
            (Some(_), Some(_)) => return refuse("says both `count` and `device_ids`; they exclude each other"),
            (None, Some(ids)) => Cards::These(ids.clone()),
            (Some(Count::Of(1)), None) => Cards::One,
            (Some(Count::All) | None, None) => Cards::All,
            (Some(Count::Of(_)), None) => {
                return refuse("asks for several cards by their number; name them with `device_ids`, or ask for `all`");
            }
        };
        let capabilities = capabilities.into_iter().filter(|capability| capability != "gpu").collect();
        Ok(Some(GpuSpec { cards, capabilities, vram: written.sovereign.vram.map(|vram| vram.0) }))
    }

    /// Cards as the Container Device Interface names them, or as NVIDIA's runtime is told by the environment.
    fn cards_otherwise(&self, written: &Service) -> Option<(Vec<DeviceKeys>, u64)> {
        let of = |ids: Vec<String>| match ids.iter().any(|id| id == "all") {
            true => DeviceKeys { count: Some(Count::All), ..DeviceKeys::default() },
            false => DeviceKeys { device_ids: Some(ids), ..DeviceKeys::default() },
        };
        let cdi = written.devices.as_ref().and_then(|devices| {
            let cards = devices.value.iter().filter_map(|device| match device {
                DevicePathKey::Card(card) => Some(card.clone()),
                DevicePathKey::Path(_) => None,
            });
            let cards: Vec<String> = cards.collect();
            (!cards.is_empty()).then(|| (vec![of(cards)], devices.referenced.line()))
        });
        let runtime = written.runtime.as_ref().filter(|runtime| runtime.value == RuntimeKey::Nvidia);
        let runtime = runtime.and_then(|runtime| {
            let environment = self.environment(written);
            let list =
                |name: &str| environment.get(name).map(|all| all.split(',').map(str::to_owned).collect::<Vec<_>>());
            // Images for cards ask for all of them by themselves.
            let cards = list("NVIDIA_VISIBLE_DEVICES").unwrap_or_else(|| vec!["all".into()]);
            let none = matches!(&cards[..], [one] if one.is_empty() || one == "none" || one == "void");
            let capabilities = list("NVIDIA_DRIVER_CAPABILITIES");
            let capabilities = capabilities.map(|all| all.into_iter().chain(["gpu".to_owned()]).collect());
            (!none).then(|| (vec![DeviceKeys { capabilities, ..of(cards) }], runtime.referenced.line()))
        });
        cdi.or(runtime)
    }
}
