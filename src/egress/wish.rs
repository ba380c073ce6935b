use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, Weak};

/// What connections to the outside are for: each class is off, asked about or on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Fetching a model that the owner asked for.
    #[serde(rename = "model_downloads")]
    ModelDownload,
    /// Fetching a container's image, which the Docker engine does for us.
    #[serde(rename = "image_pulls")]
    ImagePull,
    /// Asking whether there is a newer version.
    #[serde(rename = "update_checks")]
    UpdateCheck,
    /// Renting and returning machines.
    CloudControl,
    /// What is sent to rented machines.
    CloudData,
    /// Fetching a page that somebody asked for.
    #[serde(rename = "url_fetches")]
    UrlFetch,
    /// A container's own connection.
    #[serde(rename = "stacks")]
    Stack,
}

impl Class {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::ModelDownload,
        Self::ImagePull,
        Self::UpdateCheck,
        Self::CloudControl,
        Self::CloudData,
        Self::UrlFetch,
        Self::Stack,
    ];

    /// Its key in the configuration and on the command line.
    pub const fn key(self) -> &'static str {
        match self {
            Self::ModelDownload => "model_downloads",
            Self::ImagePull => "image_pulls",
            Self::UpdateCheck => "update_checks",
            Self::CloudControl => "cloud_control",
            Self::CloudData => "cloud_data",
            Self::UrlFetch => "url_fetches",
            Self::Stack => "stacks",
        }
    }

    /// What people call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ModelDownload => "Model downloads",
            Self::ImagePull => "Image pulls",
            Self::UpdateCheck => "Update checks",
            Self::CloudControl => "Cloud control",
            Self::CloudData => "Cloud data",
            Self::UrlFetch => "Page fetches",
            Self::Stack => "Stacks",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

impl FromStr for Class {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::key).join(", ");
        Self::ALL
            .into_iter()
            .find(|class| class.key() == text)
            .ok_or_else(|| format!("{text:?} is no class; known are {}", known()))
    }
}

/// Who wants a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initiator {
    /// The owner, by the command line or the dashboard.
    Owner,
    /// A program, by the name of its API key.
    Key(String),
    /// A container.
    Stack {
        /// The stack that it belongs to.
        stack: String,
        /// Its service.
        service: String,
    },
    /// The daemon by itself.
    Daemon,
}

impl fmt::Display for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("the owner"),
            Self::Key(name) => write!(f, "the key {name}"),
            Self::Stack { stack, service } => write!(f, "the stack {stack}, service {service}"),
            Self::Daemon => f.write_str("the daemon"),
        }
    }
}

/// One undertaking, of one connection or of several: what is allowed once is allowed until it is over.
/// It is over when nobody holds it any more.
#[derive(Debug, Clone, Default)]
pub struct Errand(Arc<()>);

impl Errand {
    /// It, as long as somebody else holds it.
    pub(super) fn downgrade(&self) -> Weak<()> {
        Arc::downgrade(&self.0)
    }

    /// Whether `other` was made of this one.
    pub(super) fn is(&self, other: &Weak<()>) -> bool {
        std::ptr::eq(Arc::as_ptr(&self.0), other.as_ptr())
    }
}

/// What somebody wants to send, and where: what the question to the owner shows.
#[derive(Debug, Clone)]
pub struct Wish {
    /// What for.
    pub class: Class,
    /// Who wants it.
    pub initiator: Initiator,
    /// A name or an address, lower case, without brackets or a dot at its end.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// What it is about, in a few words, without secrets: this goes into the ledger.
    pub what: String,
    /// What is sent, where that is one body that we hold.
    pub sent: Option<Sent>,
    /// What it belongs to.
    pub errand: Errand,
    /// Whether somebody outside led here: then no host of the house is reached, whatever the configuration lists.
    pub stranger: bool,
}

/// A body that is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its SHA-256 in hex digits, which the ledger keeps.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
    /// The body itself where it is text, which is kept beside the ledger and may be erased.
    pub text: Option<String>,
}

/// Longer names are none: DNS ends at 253.
const LONGEST_HOST: usize = 253;

impl Wish {
    /// A wish that is an errand by itself, and sends nothing that we know.
    ///
    /// # Errors
    /// When `host` is neither a name nor an address.
    pub fn new(
        class: Class,
        initiator: Initiator,
        host: &str,
        port: u16,
        what: impl Into<String>,
    ) -> Result<Self, String> {
        let (host, what) = (normal(host)?, what.into());
        Ok(Self { class, initiator, host, port, what, sent: None, errand: Errand::default(), stranger: false })
    }

    /// The host's address, where it is one and no name.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// A host as policies and the ledger have it.
pub(super) fn normal(host: &str) -> Result<String, String> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(address.to_canonical().to_string());
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    match name.len() <= LONGEST_HOST && name.split('.').all(label) {
        true => Ok(name),
        false => {
            Err(format!("{:?} is not the name or the address of a host", host.chars().take(80).collect::<String>()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_one_spelling() {
        let check = |host: &str, expected: Option<&str>| assert_eq!(normal(host).ok().as_deref(), expected, "{host}");
        check("Example.COM.", Some("example.com"));
        check("[2001:DB8::1]", Some("2001:db8::1"));
        check("::ffff:10.0.0.1", Some("10.0.0.1"));
        check("10.0.0.1", Some("10.0.0.1"));
        check("_x.a-b.example", Some("_x.a-b.example"));
        for nothing in [
            "",
            ".",
            "a..b",
            "a b",
            "a/b",
            "user@host",
            "ex\u{e4}mple",
            "a\0b",
            "[a]",
            &"a".repeat(64),
            &"a.".repeat(200),
        ] {
            check(nothing, None);
        }
    }

    #[test]
    fn classes_read_as_they_are_written() {
        for class in Class::ALL {
            assert_eq!(class.to_string().parse(), Ok(class));
            assert_eq!(serde_json::to_value(class).unwrap(), class.key());
        }
        assert!("everything".parse::<Class>().is_err());
    }
}
