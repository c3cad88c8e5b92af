"""Secrets from files, and those that stores and key services know by names of their own."""

import warnings
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict, SettingsError


class SecretFiles(SecretsSettingsSource):
    """A folder with a file for each value, as a Secret of Kubernetes and the secrets of Compose are mounted.

    A file that cannot be read is an error: without its URL a process would start on a database of its own.
    """

    def __call__(self) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # about what would be left out otherwise
            try:
                return super().__call__()
            except (OSError, UserWarning, SettingsError) as error:
                why = error.__cause__ or error  # pydantic names the field alone
                raise SettingsError(f"the secrets in {self.secrets_dir} cannot be read: {why}") from error

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        if value == "":
            raise SettingsError(f"the file of {field_name} is empty; write the secret into it, or remove it")
        return value, key, is_complex


class Credentials(BaseSettings):
    """Secrets of the services that this one uses: variables, or files of the same names."""

    model_config = SettingsConfigDict(hide_input_in_errors=True, env_ignore_empty=True)

    aws_access_key_id: SecretStr | None = None
    aws_secret_access_key: SecretStr | None = None
    aws_session_token: SecretStr | None = None
    azure_storage_account_key: SecretStr | None = None
    azure_storage_access_key: SecretStr | None = None
    azure_storage_client_secret: SecretStr | None = None
    azure_storage_sas_token: SecretStr | None = None
    azure_storage_sas_key: SecretStr | None = None
    azure_storage_token: SecretStr | None = None
    google_service_account_key: SecretStr | None = None
    otel_exporter_otlp_headers: SecretStr | None = None
    otel_exporter_otlp_traces_headers: SecretStr | None = None
    vault_token: SecretStr | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        folder = getattr(file_secret_settings, "secrets_dir", None)
        return env_settings, SecretFiles(settings_cls, folder)

    def of(self, service: str) -> dict[str, str]:
        """Return those of a service, such as ``aws``, by their names in lower case."""
        return {name: value.get_secret_value() for name, value in self if value and name.startswith(f"{service}_")}
