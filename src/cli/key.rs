//! `sovereign key`.

use super::Global;
use super::client::{Client, block_on, path_segment};
use super::table::{Table, ago};
use crate::admin::{Created, NewKey};
use crate::auth;
use clap::Subcommand;
use std::process::ExitCode;

/// Create, list and revoke API keys.
///
/// Programs on other machines show a key: `Authorization: Bearer sk-sov-...`. Those on this machine need none, unless
/// the configuration says otherwise.
#[derive(Debug, clap::Args)]
pub struct Key {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key and print it. It is shown this once: only a digest of it is kept.
    Create {
        /// How you will know it, such as the program or the machine that uses it.
        name: String,
    },
    /// List the keys.
    List,
    /// Revoke a key at once.
    Rm {
        /// The key's name.
        name: String,
    },
}

impl Key {
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let client = Client::new(global)?;
        block_on(self.command.run(&client))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Command {
    async fn run(self, client: &Client) -> anyhow::Result<()> {
        match self {
            Self::Create { name } => {
                let created: Created = client.post("/admin/v1/keys", &NewKey { name }).await?;
                // The key alone on standard output, so that a script can take it.
                eprintln!("The key {:?}, shown this once:", created.key.name);
                println!("{}", created.secret);
            }
            Self::List => {
                let keys: Vec<auth::Key> = client.get("/admin/v1/keys").await?;
                if keys.is_empty() {
                    eprintln!("There is no key. `sovereign key create NAME` makes one.");
                    return Ok(());
                }
                let mut table = Table::new(["NAME", "KEY", "CREATED", "LAST USED"]);
                for key in keys {
                    let used = key.last_used_at.map_or("never".into(), ago);
                    table.row([key.name, format!("{}...", key.prefix), ago(key.created_at), used]);
                }
                print!("{table}");
            }
            Self::Rm { name } => {
                client.delete(&format!("/admin/v1/keys/{}", path_segment(&name))).await?;
                println!("The key {name:?} is revoked.");
            }
        }
        Ok(())
    }
}
