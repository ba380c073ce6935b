use super::call::{self, Call, Head};
use super::python;

/// What a model that is given code calls it.
const CODE_TOOLS: [&str; 3] = ["python", "code_interpreter", "ipython"];

/// The tools that a model was told of, by their names.
#[derive(Debug)]
pub(super) struct Tools(Vec<String>);

impl Tools {
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Whether there is one of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }

    /// Whether what a block begins with can be a call, so that other code flows.
    pub fn may_be_block(&self, block: &str) -> bool {
        let begins = |name: &str| name.starts_with(block) || block.starts_with(name);
        match block.as_bytes().first() {
            Some(b'{') => call::head(block) != Head::None,
            Some(b'[') => self.may_be_list(block),
            _ => begins("print(") || self.0.iter().any(|tool| begins(tool)),
        }
    }

    /// Whether a list can be one of calls.
    pub fn may_be_list(&self, list: &str) -> bool {
        let inner = list[1..].trim_start();
        let begins = |name: &String| name.starts_with(inner) || inner.starts_with(name.as_str());
        inner.is_empty() || inner.starts_with('{') || self.0.iter().any(begins)
    }

    /// The calls in a block, if all are such.
    pub fn block(&self, text: &str) -> Option<Vec<Call>> {
        let calls = call::read_all(text.trim()).or_else(|| python::read(text.trim()))?;
        calls.iter().all(|call| self.has(&call.name)).then_some(calls)
    }

    /// Code, where there is a tool that runs it.
    pub fn code(&self, text: &str) -> Option<Vec<Call>> {
        let tool = CODE_TOOLS.iter().find(|tool| self.has(tool))?;
        let arguments = serde_json::json!({ "code": text }).to_string();
        Some(vec![Call { name: (*tool).into(), arguments }])
    }
}
