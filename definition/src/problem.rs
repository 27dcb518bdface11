//! What is wrong with a request: where, and how ECS says it.

/// One thing that is wrong. A request with several gets all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field in ECS's JSON, such as `containerDefinitions[1].image`.
    pub path: String,
    /// The ECS exception that the API answers with.
    pub code: Code,
    /// ECS's text where it has one.
    pub message: String,
}

/// ECS's exception for a bad request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The request cannot be done as asked.
    ClientException,
    /// A parameter is malformed or does not fit the others.
    InvalidParameterException,
}

impl Code {
    /// ECS's name of the exception.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::ClientException => "ClientException",
            Code::InvalidParameterException => "InvalidParameterException",
        }
    }
}

/// Collects problems while a request is read.
#[derive(Default)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    pub(crate) fn client(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { path: path.into(), code: Code::ClientException, message: message.into() });
    }

    pub(crate) fn parameter(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { path: path.into(), code: Code::InvalidParameterException, message: message.into() });
    }

    /// Text that ends in a NUL byte's place cannot reach a program, a path or the kernel.
    pub(crate) fn no_nul(&mut self, path: &str, text: &str) {
        if text.contains('\0') {
            self.client(path, format!("{path} must not contain a NUL character."));
        }
    }
}
