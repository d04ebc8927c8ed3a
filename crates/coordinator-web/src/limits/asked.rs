//! `Asked`: what rules are asked about a request, in texts of its own. The rules are the
//! limiter's.

use super::key::fitted;
use coordinator::ratelimit::Request;

/// The longest part in bytes: operation and user together are one name.
const LONGEST: usize = 200;

/// What [rules](coordinator::ratelimit::Rules) are asked about a request.
///
/// As [`Request`](coordinator::ratelimit::Request), but it owns its texts. A text that is longer
/// than a name can be is cut, and a hash of all of it stands at its end; an empty one counts as
/// none.
///
/// ```
/// use coordinator_web::limits::Asked;
///
/// let asked = Asked::new("search").with_user("42").with_company("acme").with_cost(3);
/// ```
#[derive(Clone)]
pub struct Asked {
    operation: String,
    user: Option<String>,
    company: Option<String>,
    endpoint: Option<String>,
    cost: u64,
    id: Option<String>,
}

fn part(text: String) -> Option<String> {
    Some(fitted(text, LONGEST)).filter(|text| !text.is_empty())
}

impl Asked {
    /// A request for an operation, of nobody known, with a cost of 1.
    pub fn new(operation: impl Into<String>) -> Self {
        Self {
            operation: part(operation.into()).unwrap_or_else(|| "-".to_owned()),
            user: None,
            company: None,
            endpoint: None,
            cost: 1,
            id: None,
        }
    }

    /// Whose it is. Users of different companies are different users.
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = part(user.into());
        self
    }

    /// Whose user's it is.
    pub fn with_company(mut self, company: impl Into<String>) -> Self {
        self.company = part(company.into());
        self
    }

    /// What is asked: the route, rather than the path with its parameters.
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = part(endpoint.into());
        self
    }

    /// What it costs each limit; default 1. 0 means that the rules are not its business.
    pub fn with_cost(mut self, cost: u64) -> Self {
        self.cost = cost;
        self
    }

    /// An id of the service's own, with which it counts once however often it is sent. One that
    /// the client chose would let it send anything for the price of one request.
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = part(id.into());
        self
    }

    pub(super) fn cost(&self) -> u64 {
        self.cost
    }

    pub(super) fn request(&self) -> Request<'_> {
        let mut request = Request::new(&self.operation).with_cost(self.cost);
        if let Some(user) = &self.user {
            request = request.with_user(user);
        }
        if let Some(company) = &self.company {
            request = request.with_company(company);
        }
        if let Some(endpoint) = &self.endpoint {
            request = request.with_endpoint(endpoint);
        }
        if let Some(id) = &self.id {
            request = request.with_id(id);
        }
        request
    }
}

/// Without whose it is.
impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut asked = f.debug_struct("Asked");
        asked.field("operation", &self.operation).field("cost", &self.cost);
        asked.finish_non_exhaustive()
    }
}
