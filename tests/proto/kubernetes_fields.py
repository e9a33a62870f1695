"""Every message of ours as Kubernetes has it, taken from its trees and not from our .proto files.

Read in k8s.io/kubelet v0.36.3 (pkg/apis/dra, dra-health/v1alpha1, pluginregistration/v1), k8s.io/kubelet v0.37.0
(dra-health/v1, which 1.36 does not have), and for the claim in k8s.io/api v0.36.3 (resource/v1, core/v1) and
k8s.io/apimachinery v0.36.3 (apis/meta/v1, runtime, api/resource). 1.37.0 adds fields to requests and results of the
claim and changes none.

A field is `name:number:type`, with `*` repeated, `key>value` a map, `?` present or absent where others can not be.
"""

from typing import Final

REGISTRATION: Final = {
    "PluginInfo": "type:1:string name:2:string endpoint:3:string supported_versions:4:string*",
    "RegistrationStatus": "plugin_registered:1:bool error:2:string",
    "RegistrationStatusResponse": "",
    "InfoRequest": "",
}

# 1.35 added share_id to v1. v1beta1 never got it.
DRA_V1BETA1: Final = {
    "NodePrepareResourcesRequest": "claims:1:Claim*",
    "NodePrepareResourcesResponse": "claims:1:string>NodePrepareResourceResponse",
    "NodePrepareResourceResponse": "devices:1:Device* error:2:string",
    "Device": "request_names:1:string* pool_name:2:string device_name:3:string cdi_device_ids:4:string*",
    "NodeUnprepareResourcesRequest": "claims:1:Claim*",
    "NodeUnprepareResourcesResponse": "claims:1:string>NodeUnprepareResourceResponse",
    "NodeUnprepareResourceResponse": "error:1:string",
    "Claim": "namespace:1:string uid:2:string name:3:string",
}
DRA_V1: Final = {**DRA_V1BETA1, "Device": f"{DRA_V1BETA1['Device']} share_id:5:string?"}

# The same in v1alpha1 and v1.
HEALTH: Final = {
    "NodeWatchResourcesRequest": "",
    "DeviceIdentifier": "pool_name:1:string device_name:2:string",
    "DeviceHealth": """
        device:1:DeviceIdentifier health:2:HealthStatus last_updated_time:3:int64
        health_check_timeout_seconds:4:int64 message:5:string
    """,
    "NodeWatchResourcesResponse": "devices:1:DeviceHealth*",
}

CLAIM: Final = {
    "Unknown": "typeMeta:1:TypeMeta raw:2:bytes contentEncoding:3:string contentType:4:string",
    "TypeMeta": "apiVersion:1:string kind:2:string",
    "RawExtension": "raw:1:bytes",
    "Time": "seconds:1:int64 nanos:2:int32",
    "Quantity": "string:1:string",
    "FieldsV1": "Raw:1:bytes",
    "ManagedFieldsEntry": """
        manager:1:string operation:2:string apiVersion:3:string time:4:Time fieldsType:6:string
        fieldsV1:7:FieldsV1 subresource:8:string
    """,
    "OwnerReference": """
        kind:1:string name:3:string uid:4:string apiVersion:5:string controller:6:bool blockOwnerDeletion:7:bool
    """,
    "ObjectMeta": """
        name:1:string generateName:2:string namespace:3:string selfLink:4:string uid:5:string
        resourceVersion:6:string generation:7:int64 creationTimestamp:8:Time deletionTimestamp:9:Time
        deletionGracePeriodSeconds:10:int64 labels:11:string>string annotations:12:string>string
        ownerReferences:13:OwnerReference* finalizers:14:string* managedFields:17:ManagedFieldsEntry*
    """,
    "Condition": """
        type:1:string status:2:string observedGeneration:3:int64 lastTransitionTime:4:Time reason:5:string
        message:6:string
    """,
    "NodeSelectorRequirement": "key:1:string operator:2:string values:3:string*",
    "NodeSelectorTerm": "matchExpressions:1:NodeSelectorRequirement* matchFields:2:NodeSelectorRequirement*",
    "NodeSelector": "nodeSelectorTerms:1:NodeSelectorTerm*",
    "ResourceClaim": "metadata:1:ObjectMeta spec:2:ResourceClaimSpec status:3:ResourceClaimStatus",
    "ResourceClaimSpec": "devices:1:DeviceClaim",
    "DeviceClaim": "requests:1:DeviceRequest* constraints:2:DeviceConstraint* config:3:DeviceClaimConfiguration*",
    "DeviceRequest": "name:1:string exactly:2:ExactDeviceRequest firstAvailable:3:DeviceSubRequest*",
    "ExactDeviceRequest": """
        deviceClassName:1:string selectors:2:DeviceSelector* allocationMode:3:string count:4:int64
        adminAccess:5:bool tolerations:6:DeviceToleration* capacity:7:CapacityRequirements
    """,
    "DeviceSubRequest": """
        name:1:string deviceClassName:2:string selectors:3:DeviceSelector* allocationMode:4:string count:5:int64
        tolerations:6:DeviceToleration* capacity:7:CapacityRequirements
    """,
    "CapacityRequirements": "requests:1:string>Quantity",
    "DeviceSelector": "cel:1:CELDeviceSelector",
    "CELDeviceSelector": "expression:1:string",
    "DeviceToleration": "key:1:string operator:2:string value:3:string effect:4:string tolerationSeconds:5:int64",
    "DeviceConstraint": "requests:1:string* matchAttribute:2:string distinctAttribute:3:string",
    "DeviceClaimConfiguration": "requests:1:string* deviceConfiguration:2:DeviceConfiguration",
    "DeviceConfiguration": "opaque:1:OpaqueDeviceConfiguration",
    "OpaqueDeviceConfiguration": "driver:1:string parameters:2:RawExtension",
    "ResourceClaimStatus": """
        allocation:1:AllocationResult reservedFor:2:ResourceClaimConsumerReference*
        devices:4:AllocatedDeviceStatus*
    """,
    "AllocationResult": "devices:1:DeviceAllocationResult nodeSelector:3:NodeSelector allocationTimestamp:5:Time",
    "DeviceAllocationResult": "results:1:DeviceRequestAllocationResult* config:2:DeviceAllocationConfiguration*",
    "DeviceRequestAllocationResult": """
        request:1:string driver:2:string pool:3:string device:4:string adminAccess:5:bool
        tolerations:6:DeviceToleration* bindingConditions:7:string* bindingFailureConditions:8:string*
        shareID:9:string consumedCapacity:10:string>Quantity
    """,
    "DeviceAllocationConfiguration": "source:1:string requests:2:string* deviceConfiguration:3:DeviceConfiguration",
    "ResourceClaimConsumerReference": "apiGroup:1:string resource:3:string name:4:string uid:5:string",
    "AllocatedDeviceStatus": """
        driver:1:string pool:2:string device:3:string conditions:4:Condition* data:5:RawExtension
        networkData:6:NetworkDeviceData shareID:7:string
    """,
    "NetworkDeviceData": "interfaceName:1:string ips:2:string* hardwareAddress:3:string",
}
