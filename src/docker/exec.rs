//! Commands in a container that runs.

use super::{Docker, Error};
use bollard::exec::{CreateExecOptions, StartExecResults};
use futures_util::StreamExt;

/// What is kept of a command's words.
const WORDS: usize = 4096;

/// How a command ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code.
    pub code: i64,
    /// The beginning of what it said, to either stream.
    pub said: String,
}

impl Docker {
    /// Runs a command in a container, and returns when it has ended. None when the container has no such program.
    ///
    /// # Errors
    /// When no engine answers, or the container does not run.
    pub async fn exec(&self, id: &str, command: &[&str]) -> Result<Option<Ran>, Error> {
        let client = self.client()?;
        let what = || format!("run {} in a container", command.first().copied().unwrap_or_default());
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.to_vec()),
            ..CreateExecOptions::default()
        };
        let exec = client.create_exec(id, options).await.map_err(Error::of(what()))?;
        let mut said = String::new();
        match client.start_exec(&exec.id, None).await {
            Ok(StartExecResults::Attached { mut output, .. }) => {
                while let Some(part) = output.next().await {
                    let part = part.map_err(Error::of(what()))?.into_bytes();
                    if said.len() < WORDS {
                        said.push_str(&String::from_utf8_lossy(&part));
                    }
                }
            }
            Ok(StartExecResults::Detached) => {}
            Err(error) => {
                return match Error::of(what())(error) {
                    Error::Refused { said, .. } if is_missing(&said) => Ok(None),
                    error => Err(error),
                };
            }
        }
        let code = client.inspect_exec(&exec.id).await.map_err(Error::of(what()))?.exit_code.unwrap_or(-1);
        // As a shell has it: the program was not found, or is none.
        let missing = matches!(code, 126 | 127) && is_missing(&said);
        Ok((!missing).then(|| Ran { code, said: said.trim().to_owned() }))
    }
}

/// Whether the engine says that there is no such program.
fn is_missing(said: &str) -> bool {
    said.contains("executable file not found") || said.contains("no such file or directory")
}
