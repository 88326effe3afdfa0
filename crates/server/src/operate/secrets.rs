//! Sealed values of a tenant.

use base::TenantId;
use kernel::{Operator, Secret};
use rpc::{Answer, Credential, Fault, FaultCode, Row, SecretName, SecretView};

use super::{Office, feed_all};
use crate::fault::{fault, internal};
use crate::feed::Feed;

impl Office {
    pub(super) async fn set_secret(
        &self,
        operator: &Operator,
        id: &TenantId,
        name: &SecretName,
        value: &Credential,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let value = Secret::from_text(value.expose().to_owned())
            .map_err(|error| Fault::new(FaultCode::Invalid, error.to_string()))?;
        self.kernel
            .set_secret(operator, &tenant, name.as_str(), value)
            .await
            .map_err(fault)?;
        Ok(Answer::Done {
            message: format!("secret {name} of {id} is sealed"),
        })
    }

    pub(super) async fn list_secrets(
        &self,
        operator: &Operator,
        id: &TenantId,
        to: &Feed,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let mut rows = Vec::new();
        for info in self
            .kernel
            .list_secrets(operator, &tenant)
            .await
            .map_err(fault)?
        {
            let name = info
                .name
                .parse()
                .map_err(|_| internal(format!("a secret of {id} has a name that is none")))?;
            rows.push(Row::Secret(SecretView {
                name,
                created_at: info.set_at,
            }));
        }
        feed_all(rows, to).await
    }

    pub(super) async fn delete_secret(
        &self,
        operator: &Operator,
        id: &TenantId,
        name: &SecretName,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        self.kernel
            .delete_secret(operator, &tenant, name.as_str())
            .await
            .map_err(fault)?;
        Ok(Answer::Done {
            message: format!("secret {name} of {id} is deleted"),
        })
    }

    pub(super) async fn rotate_secrets(
        &self,
        operator: &Operator,
        id: &TenantId,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let sealed = self
            .kernel
            .rotate_secrets(operator, &tenant)
            .await
            .map_err(fault)?;
        Ok(Answer::Done {
            message: format!(
                "{sealed} secrets of {id} are sealed under a fresh key; the old key is destroyed"
            ),
        })
    }
}
